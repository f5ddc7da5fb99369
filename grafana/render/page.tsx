// Draws one dashboard with Grafana's own components. What only Grafana's server has (heatmaps, state timelines, node
// graphs and the like are plugins of it) is said to be missing, and not drawn in some other way.
import React, { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { DataFrame, FieldType, createTheme, dateTime, getFieldDisplayName } from '@grafana/data';
import {
  BarGauge,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  Table,
  ThemeContext,
  TimeSeries,
} from '@grafana/ui';
import '@fontsource/inter/latin-400.css';
import '@fontsource/inter/latin-500.css';
import 'uplot/dist/uPlot.min.css';
import { configured, nothing, reduced, transformed } from './fields';
import { Span, fill, frames, labelValues } from './prometheus';

const WIDTH = 1400;
const GAP = 8;
const ROW = 30;
const theme = createTheme({ colors: { mode: 'dark' } });

interface Setup extends Span {
  dashboard: any;
  chosen: Record<string, string>;
}

declare global {
  interface Window {
    setup: Setup;
    drawn: Record<string, { type: string; title: string; series: number; error?: string }>;
    expected: number;
  }
}

async function variables(setup: Setup): Promise<Record<string, string>> {
  const span = Math.round(setup.to - setup.from);
  const made: Record<string, string> = {
    __interval: `${setup.step}s`,
    __rate_interval: `${4 * setup.step}s`,
    __range: `${span}s`,
    __range_s: String(span),
    ...setup.chosen,
  };
  for (const each of setup.dashboard.templating?.list ?? []) {
    if (each.name in made) {
      continue;
    }
    if (each.type === 'query') {
      const query = typeof each.query === 'string' ? each.query : each.query.query;
      const values = await labelValues(setup, fill(query, made));
      made[each.name] = each.includeAll ? each.allValue || values.join('|') : values[0];
    } else if (each.type !== 'datasource') {
      made[each.name] = String(each.current?.value ?? each.query ?? '');
    }
  }
  return made;
}

function seriesOf(found: DataFrame[]): Array<{ frame: DataFrame; field: any; time: any }> {
  return found.flatMap((frame) =>
    frame.fields
      .filter((field) => field.type === FieldType.number)
      .map((field) => ({ frame, field, time: frame.fields.find((each) => each.type === FieldType.time) }))
  );
}

function Stats({ panel, found, width, height }: any) {
  const calc = panel.options?.reduceOptions?.calcs?.[0] ?? 'lastNotNull';
  const shown = seriesOf(found);
  const each = (index: number) => {
    const { frame, field, time } = shown[index];
    const value = field.display(reduced(field, calc));
    const title = shown.length > 1 || panel.options?.textMode?.includes('name') ? getFieldDisplayName(field, frame, found) : '';
    return { field, time, value: { ...value, title } };
  };
  if (!shown.length) {
    return <BigValue width={width} height={height} theme={theme} value={nothing(panel, theme)}
      colorMode={panel.options?.colorMode ?? BigValueColorMode.Value} graphMode={BigValueGraphMode.None}
      justifyMode={panel.options?.justifyMode ?? BigValueJustifyMode.Auto}
      textMode={panel.options?.textMode ?? BigValueTextMode.Auto} />;
  }
  const across = panel.type === 'bargauge' ? panel.options?.orientation === 'vertical' : panel.options?.orientation !== 'horizontal';
  const [w, h] = across ? [width / shown.length, height] : [width, height / shown.length];
  return (
    <div style={{ display: 'flex', flexDirection: across ? 'row' : 'column' }}>
      {shown.map((_, index) => {
        const { field, time, value } = each(index);
        const graph = panel.options?.graphMode ?? 'area';
        const sparkline = graph !== 'none' && time && field.values.length > 2 ? { y: field, x: time } : undefined;
        if (panel.type === 'bargauge') {
          return <BarGauge key={index} field={field.config} value={value} width={w} height={h} theme={theme}
            display={field.display} orientation={panel.options?.orientation ?? 'horizontal'}
            displayMode={panel.options?.displayMode ?? 'gradient'} itemSpacing={4} lcdCellWidth={12} />;
        }
        return <BigValue key={index} width={w} height={h} theme={theme} value={value} sparkline={sparkline}
          colorMode={panel.options?.colorMode ?? BigValueColorMode.Value}
          graphMode={sparkline ? BigValueGraphMode.Area : BigValueGraphMode.None}
          justifyMode={panel.options?.justifyMode ?? BigValueJustifyMode.Auto}
          textMode={panel.options?.textMode ?? BigValueTextMode.Auto} />;
      })}
    </div>
  );
}

const Nothing = () => <div style={{ padding: 16, color: theme.colors.text.secondary }}>No data</div>;

function Missing({ type }: { type: string }) {
  return (
    <div style={{ padding: 16, color: theme.colors.text.secondary }}>
      {`“${type}” is a plugin of the Grafana server, which is not running here: not drawn.`}
    </div>
  );
}

function Body({ panel, found, setup, width, height }: any) {
  switch (panel.type) {
    case 'timeseries': {
      if (!seriesOf(found).length) {
        return <Nothing />;
      }
      const range = { from: dateTime(setup.from * 1000), to: dateTime(setup.to * 1000) };
      return (
        <TimeSeries frames={found} structureRev={1} timeRange={{ ...range, raw: range }} timeZone="utc"
          width={width} height={height} legend={{ ...panel.options?.legend, showLegend: panel.options?.legend?.showLegend ?? true }}
          options={panel.options} />
      );
    }
    case 'stat':
    case 'bargauge':
      return <Stats panel={panel} found={found} width={width} height={height} />;
    case 'table':
      return found.length && found[0].length ? (
        <Table data={found[0]} width={width} height={height} noHeader={panel.options?.showHeader === false}
          initialSortBy={panel.options?.sortBy} cellHeight={panel.options?.cellHeight} />
      ) : (
        <Nothing />
      );
    case 'text':
      return <pre style={{ padding: 8, whiteSpace: 'pre-wrap' }}>{panel.options?.content}</pre>;
    default:
      return <Missing type={panel.type} />;
  }
}

/** An error in one panel is this panel's. */
class Guarded extends React.Component<any, { error?: Error }> {
  state: { error?: Error } = {};

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  componentDidCatch(error: Error) {
    window.drawn[this.props.panel.id].error = String(error.stack);
  }

  render() {
    return this.state.error ? <pre>{String(this.state.error)}</pre> : this.props.children;
  }
}

function Panel({ panel, setup, values }: any) {
  const [state, setState] = useState<{ found?: DataFrame[]; error?: string }>({});
  const title = fill(panel.title ?? '', values);
  useEffect(() => {
    (async () => {
      try {
        const raw = await frames(panel.targets ?? [], setup, values);
        const found = configured(await transformed(raw, panel.transformations ?? []), panel, theme);
        const series = found.reduce((sum, frame) => sum + (frame.length ? frame.fields.length - 1 : 0), 0);
        window.drawn[panel.id] = { type: panel.type, title, series };
        setState({ found });
      } catch (error) {
        setState({ error: String(error) });
        window.drawn[panel.id] = { type: panel.type, title, series: 0, error: String(error) };
      }
    })();
  }, []);
  const { x, y, w, h } = panel.gridPos;
  const column = (WIDTH + GAP) / 24;
  const [width, height] = [w * column - GAP, h * (ROW + GAP) - GAP];
  return (
    <div style={{ position: 'absolute', left: x * column, top: y * (ROW + GAP), width, height }} data-panel={panel.id}>
      <PanelChrome title={title} width={width} height={height} description={panel.description} padding="md"
        displayMode={panel.transparent ? 'transparent' : 'default'}>
        {(innerWidth: number, innerHeight: number) =>
          state.error ? <pre>{state.error}</pre> : state.found ? (
            <Guarded panel={panel}>
              <Body panel={panel} found={state.found} setup={setup} width={innerWidth} height={innerHeight} />
            </Guarded>
          ) : null
        }
      </PanelChrome>
    </div>
  );
}

function Row({ panel }: any) {
  return (
    <div style={{ position: 'absolute', left: 0, top: panel.gridPos.y * (ROW + GAP), lineHeight: `${ROW}px`, fontSize: 16 }}>
      {panel.title}
    </div>
  );
}

/** Panels of collapsed rows follow their row, as when it is opened. */
function laidOut(panels: any[]): any[] {
  return panels.flatMap((panel) => [panel, ...(panel.panels ?? [])]);
}

function Dashboard({ setup }: { setup: Setup }) {
  const [values, setValues] = useState<Record<string, string>>();
  const [error, setError] = useState('');
  useEffect(() => {
    variables(setup).then(setValues, (found) => setError(String(found)));
  }, []);
  const panels = laidOut(setup.dashboard.panels);
  const rows = Math.max(...panels.map((panel) => panel.gridPos.y + panel.gridPos.h));
  const shown = (setup.dashboard.templating?.list ?? []).filter((each: any) => each.type !== 'datasource' && !each.hide);
  const label = (each: any) => `${each.label || each.name}: ${display(values?.[each.name] ?? '', each)}`;
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div id="dashboard" style={{ width: WIDTH + 32, padding: 16, background: theme.colors.background.canvas }}>
        <h2 style={{ margin: 0 }}>{setup.dashboard.title}</h2>
        <div style={{ color: theme.colors.text.secondary, margin: '4px 0 12px' }}>{shown.map(label).join('   ·   ')}</div>
        <div style={{ position: 'relative', height: rows * (ROW + GAP) }}>
          {error || (values && panels.map((panel) =>
            panel.type === 'row' ? <Row key={panel.id} panel={panel} /> : (
              <Panel key={panel.id} panel={panel} setup={setup} values={values} />
            )
          ))}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

const display = (value: string, variable: any): string =>
  variable.includeAll && (value === variable.allValue || value.includes('|')) ? 'All' : value;

window.drawn = {};
window.expected = laidOut(window.setup.dashboard.panels).filter((panel) => panel.type !== 'row').length;
// Grafana measures its axes with this font: it must be there first.
Promise.all(['400 12px Inter', '500 14px Inter'].map((font) => document.fonts.load(font))).then(() =>
  createRoot(document.getElementById('root')!).render(<Dashboard setup={window.setup} />)
);
