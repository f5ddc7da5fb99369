// A panel's field options, overrides and transformations, applied to its frames: what Grafana's dashboard does.
import {
  DataFrame,
  DisplayValue,
  Field,
  FieldType,
  GrafanaTheme2,
  fieldReducers,
  getDisplayProcessor,
  getFieldDisplayName,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { firstValueFrom } from 'rxjs';

// By id: some are there under an older name, too.
const known = new Map(Object.values(standardTransformers).map((each: any) => [each.id, each]));
standardTransformersRegistry.setInit(() =>
  [...known.values()].map((transformation) => ({
    id: transformation.id,
    name: transformation.name,
    transformation,
    editor: () => null as any,
  }))
);

const DEFAULTS = {
  thresholds: { mode: 'absolute', steps: [{ value: -Infinity, color: 'green' }, { value: 80, color: 'red' }] },
};
const LINES = {
  drawStyle: 'line',
  lineInterpolation: 'linear',
  lineWidth: 1,
  fillOpacity: 0,
  gradientMode: 'none',
  spanNulls: false,
  showPoints: 'auto',
  pointSize: 5,
  axisPlacement: 'auto',
  scaleDistribution: { type: 'linear' },
  hideFrom: { tooltip: false, viz: false, legend: false },
  stacking: { mode: 'none', group: 'A' },
  thresholdsStyle: { mode: 'off' },
};

function matches(matcher: any, field: Field, frame: DataFrame, frames: DataFrame[]): boolean {
  const shown = getFieldDisplayName(field, frame, frames);
  switch (matcher.id) {
    case 'byName':
      return shown === matcher.options || field.name === matcher.options;
    case 'byRegexp': {
      const [, body, flags] = /^\/([^]*)\/(\w*)$/.exec(matcher.options) ?? [null, matcher.options, ''];
      return new RegExp(body, flags).test(shown) || new RegExp(body, flags).test(field.name);
    }
    case 'byFrameRefID':
      return frame.refId === matcher.options;
    case 'byType':
      return field.type === matcher.options;
    default:
      throw new Error(`matcher ${matcher.id} is not known here`);
  }
}

function assign(config: any, path: string, value: unknown): void {
  const parts = path.split('.');
  const last = parts.pop()!;
  let place = config;
  for (const part of parts) {
    place = place[part] ??= {};
  }
  place[last] = value;
}

export async function transformed(frames: DataFrame[], transformations: any[]): Promise<DataFrame[]> {
  return transformations.length ? firstValueFrom(transformDataFrame(transformations, frames)) : frames;
}

export function configured(frames: DataFrame[], panel: any, theme: GrafanaTheme2): DataFrame[] {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  let seriesIndex = 0;
  const made = frames.map((frame) => ({
    ...frame,
    fields: frame.fields.map((field) => {
      const config: any = structuredClone({ ...field.config, ...DEFAULTS, ...defaults });
      config.color ??= { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
      for (const step of config.thresholds.steps) {
        step.value ??= -Infinity; // JSON has no infinity
      }
      config.custom = { ...(panel.type === 'timeseries' ? LINES : {}), ...structuredClone(defaults.custom ?? {}) };
      config.displayNameFromDS = field.config.displayNameFromDS;
      return { ...field, config, state: field.type === FieldType.number ? { seriesIndex: seriesIndex++ } : {} } as Field;
    }),
  }));
  for (const frame of made) {
    for (const field of frame.fields) {
      for (const override of overrides) {
        if (matches(override.matcher, field, frame, made)) {
          for (const property of override.properties) {
            assign(field.config, property.id, structuredClone(property.value));
          }
        }
      }
      if (field.type === FieldType.time) {
        field.config = { ...field.config, unit: undefined, min: undefined, max: undefined };
      }
      if (field.type === FieldType.number) {
        const [min, max] = [field.config.min, field.config.max];
        const numbers = field.values.filter(Number.isFinite);
        const low = min ?? Math.min(...numbers);
        const high = max ?? Math.max(...numbers);
        field.state = { ...field.state, range: { min: low, max: high, delta: high - low } };
      }
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  }
  return made;
}

/** What a stat shows of nothing. */
export function nothing(panel: any, theme: GrafanaTheme2): DisplayValue {
  const config = structuredClone({ ...DEFAULTS, ...panel.fieldConfig?.defaults });
  config.color ??= { mode: 'thresholds' };
  for (const step of config.thresholds.steps) {
    step.value ??= -Infinity;
  }
  const display = getDisplayProcessor({ field: { type: FieldType.other, config }, theme, timeZone: 'utc' })(null);
  return { ...display, text: display.text || config.noValue || 'No data', numeric: 0 };
}

/** One number of a series, as a stat shows it. */
export function reduced(field: Field, calc: string): number | null {
  const reducer = fieldReducers.get(calc);
  if (reducer.reduce) {
    return reducer.reduce(field, false, false)[calc];
  }
  const numbers = field.values.filter((value) => value !== null && !Number.isNaN(value));
  switch (calc) {
    case 'lastNotNull':
      return numbers.at(-1) ?? null;
    case 'last':
      return field.values.at(-1) ?? null;
    case 'max':
      return numbers.length ? Math.max(...numbers) : null;
    case 'min':
      return numbers.length ? Math.min(...numbers) : null;
    case 'sum':
      return numbers.reduce((sum, value) => sum + value, 0);
    case 'mean':
      return numbers.length ? numbers.reduce((sum, value) => sum + value, 0) / numbers.length : null;
    default:
      throw new Error(`${calc} is not known here`);
  }
}
