// Prometheus's answers as Grafana's data frames: what its Prometheus data source does, for the forms that are used here.
import { DataFrame, Field, FieldType } from '@grafana/data';

export interface Target {
  expr: string;
  refId: string;
  legendFormat?: string;
  format?: string;
  instant?: boolean;
  range?: boolean;
}

export interface Span {
  url: string;
  from: number; // seconds
  to: number;
  step: number;
}

type Labels = Record<string, string>;

export function fill(text: string, variables: Record<string, string>): string {
  return text.replace(/\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\]|\$(\w+)/g, (all, a, b, c) => variables[a ?? b ?? c] ?? all);
}

async function ask(url: string, path: string, parameters: Record<string, string>): Promise<any> {
  const answer = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const found = await answer.json();
  if (found.status !== 'success') {
    throw new Error(`${parameters.query ?? path}: ${found.error}`);
  }
  return found.data;
}

export async function labelValues(span: Span, query: string): Promise<string[]> {
  const match = /^label_values\(\s*(?:([^]*),)?\s*(\w+)\s*\)$/.exec(query.trim());
  if (!match) {
    throw new Error(`no label_values(): ${query}`);
  }
  const parameters: Record<string, string> = { start: String(span.from), end: String(span.to) };
  if (match[1]) {
    parameters['match[]'] = match[1].trim();
  }
  return ask(span.url, `label/${match[2]}/values`, parameters);
}

function name(labels: Labels, target: Target, expr: string): string {
  const { __name__: metric = '', ...rest } = labels;
  const format = target.legendFormat;
  if (format && format !== '__auto') {
    return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, label) => labels[label] ?? '');
  }
  const pairs = Object.entries(rest).map(([key, value]) => `${key}="${value}"`);
  if (format === '__auto' && pairs.length === 1) {
    return Object.values(rest)[0];
  }
  return metric || pairs.length ? `${metric}{${pairs.join(', ')}}` : expr;
}

/** Null: a gap. */
function number(text: string): number | null {
  const value = text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text);
  return Number.isNaN(value) ? null : value;
}

function series(labels: Labels, points: Array<[number, string]>, target: Target, expr: string): DataFrame {
  const times = points.map(([at]) => at * 1000);
  const values = points.map(([, value]) => number(value));
  return {
    refId: target.refId,
    length: times.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: times },
      {
        name: 'Value',
        type: FieldType.number,
        config: { displayNameFromDS: name(labels, target, expr) },
        labels,
        values,
      },
    ],
  };
}

/** Gaps are gaps: a point without a value wherever Prometheus had none. */
function evenly(points: Array<[number, string]>, span: Span): Array<[number, string]> {
  const found = new Map(points.map(([at, value]) => [Math.round(at), value]));
  const first = Math.min(...found.keys());
  const made: Array<[number, string]> = [];
  for (let at = first; at <= span.to; at += span.step) {
    made.push([at, found.get(at) ?? 'NaN']);
  }
  return made;
}

function table(result: any[], target: Target, several: boolean): DataFrame {
  const keys = [...new Set(result.flatMap((each) => Object.keys(each.metric)))].sort();
  const rows: Array<[Labels, [number, string]]> = result.flatMap((each) =>
    (each.values ?? [each.value]).map((point: [number, string]) => [each.metric, point])
  );
  const fields: Field[] = [
    { name: 'Time', type: FieldType.time, config: {}, values: rows.map(([, [at]]) => at * 1000) },
    ...keys.map((key) => ({
      name: key,
      type: FieldType.string,
      config: {},
      values: rows.map(([labels]) => labels[key] ?? ''),
    })),
    {
      name: several ? `Value #${target.refId}` : 'Value',
      type: FieldType.number,
      config: {},
      values: rows.map(([, [, value]]) => number(value)),
    },
  ];
  return { refId: target.refId, length: rows.length, fields };
}

/** All frames of one panel. */
export async function frames(targets: Target[], span: Span, variables: Record<string, string>): Promise<DataFrame[]> {
  const tables = targets.filter((target) => target.format === 'table').length;
  const found: DataFrame[] = [];
  for (const target of targets) {
    const query = fill(target.expr, variables);
    const once = target.instant && !target.range;
    const data = once
      ? await ask(span.url, 'query', { query, time: String(span.to) })
      : await ask(span.url, 'query_range', {
          query,
          start: String(span.from),
          end: String(span.to),
          step: String(span.step),
        });
    const result = data.resultType === 'scalar' ? [{ metric: {}, value: data.result }] : data.result;
    if (target.format === 'table') {
      found.push(table(result, target, tables > 1));
    } else {
      for (const each of result) {
        const points = each.values ? evenly(each.values, span) : [each.value];
        found.push(series(each.metric, points, target, query));
      }
    }
  }
  return found;
}
