import { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { normaliseKey, type ImportRow } from '@keyledger/contracts';
import { refuse, type Refusal } from '@keyledger/kernel';
import { CsvError, parse } from 'csv-parse';
import { stringify } from 'csv-stringify/sync';

const columns = ['licenseKey', 'customerEmail'] as const;
const delimiters = [',', ';', '\t'] as const;
const longestField = 255;
/** In bytes. What is longer has lost its closing quote. */
const longestRecord = 10_000;
/** A few milliseconds' work. */
const piece = 16 * 1024;

/**
 * The rows of a file that assigns licenses: a header with both columns in any order, separated by commas, semicolons or tabs, with any line ends.
 * A fault in a row is reported in that row; a file that cannot be read as a whole is refused. Yields to other requests between pieces.
 */
export async function* importRows(file: Buffer): AsyncGenerator<ImportRow> {
  const parser = Readable.from(piecesOf(file)).pipe(parse({
    bom: true, delimiter: delimiterOf(file), record_delimiter: ['\r\n', '\n', '\r'], relax_column_count: true, skip_empty_lines: true, max_record_size: longestRecord,
  }));
  const rowsByKey = new Map<string, number>();
  let places: Places | undefined;
  let row = 0;
  try {
    for await (const record of parser as AsyncIterable<string[]>) {
      if (places) yield rowOf(record, places, rowsByKey, ++row);
      else places = placesIn(record);
    }
  } catch (error) {
    throw error instanceof CsvError ? unreadable(error) : error;
  }
  if (!places) throw headerFault(columns.map((name) => ({ pointer: `/${name}`, detail: 'is missing from the header' })));
}

/** A stream by itself would not let other requests in before its end. */
async function* piecesOf(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let from = 0; from < bytes.length; from += piece) {
    yield bytes.subarray(from, from + piece);
    await setImmediate();
  }
}

/** The separator that occurs most often in the header. */
function delimiterOf(file: Buffer): string {
  const [header = ''] = file.toString('utf8', 0, longestRecord).split(/[\r\n]/, 1);
  const count = (delimiter: string) => header.split(delimiter).length;
  return [...delimiters].sort((a, b) => count(b) - count(a))[0] as string;
}

type Places = Readonly<Record<(typeof columns)[number], number>> & { readonly width: number };

function placesIn(header: readonly string[]): Places {
  const given = header.map((name) => name.trim().toLowerCase());
  const placeOf = (name: string) => given.indexOf(name.toLowerCase());
  const errors = [
    ...columns.filter((name) => placeOf(name) < 0).map((name) => ({ pointer: `/${name}`, detail: 'is missing from the header' })),
    ...header.slice(0, 100).flatMap((name, n) => {
      const isKnown = columns.some((column) => column.toLowerCase() === given[n]);
      if (!isKnown) return [{ pointer: `/${name.slice(0, 100)}`, detail: 'is not a known column' }];
      return given.indexOf(given[n] as string) < n ? [{ pointer: `/${name}`, detail: 'appears twice in the header' }] : [];
    }),
  ];
  if (errors.length > 0) throw headerFault(errors);
  return { licenseKey: placeOf('licenseKey'), customerEmail: placeOf('customerEmail'), width: header.length };
}

const headerFault = (errors: readonly { pointer: string; detail: string }[]): Refusal =>
  refuse('VALIDATION_FAILED', `The header must be ${columns.join(',')}: ${errors.slice(0, 3).map(({ pointer, detail }) => `${pointer.slice(1)} ${detail}`).join('; ')}`, { errors });

function rowOf(record: readonly string[], { width, ...places }: Places, rowsByKey: Map<string, number>, row: number): ImportRow {
  const [licenseKey = '', customerEmail = ''] = columns.map((name) => record[places[name]]?.trim());
  const fault = record.length === width ? fieldFault({ licenseKey, customerEmail }) ?? repetition(licenseKey, rowsByKey, row) : `The row has ${record.length} fields, but the header has ${width}`;
  return fault === undefined ? { licenseKey, customerEmail } : { licenseKey: '', customerEmail: '', fault };
}

function fieldFault(fields: Readonly<Record<(typeof columns)[number], string>>): string | undefined {
  for (const name of columns) {
    if (fields[name] === '') return `${name} is missing`;
    if (fields[name].length > longestField) return `${name} is too long`;
    if (fields[name].includes('\0')) return `${name} contains NUL`;
  }
  return undefined;
}

/** Two rows about the same license contradict each other, or the second is redundant. */
function repetition(licenseKey: string, rowsByKey: Map<string, number>, row: number): string | undefined {
  const key = normaliseKey(licenseKey);
  const before = rowsByKey.get(key);
  if (before !== undefined) return `The license already appears in row ${before}`;
  rowsByKey.set(key, row);
  return undefined;
}

const reasons: Readonly<Record<string, string>> = {
  CSV_QUOTE_NOT_CLOSED: 'has an unclosed quote', CSV_INVALID_CLOSING_QUOTE: 'has text after a closing quote',
  INVALID_OPENING_QUOTE: 'has a quote in the middle of a field', CSV_MAX_RECORD_SIZE: 'is too long',
};
/** The library's messages would quote the content of the file. */
function unreadable(error: CsvError): Refusal {
  const line = Number(error['lines'] ?? 0);
  return refuse('VALIDATION_FAILED', `Line ${line} of the file ${reasons[error.code] ?? 'cannot be read'}`, { line });
}

export type Cells<T> = Readonly<Record<string, (item: T) => string | number | null>>;

/**
 * A file for people and spreadsheets (RFC 4180): every field is quoted, and one that a spreadsheet would read as a formula is prefixed with `'`
 * (OWASP, CSV Injection).
 */
export async function* csvOf<T>(cells: Cells<T>, pages: AsyncIterable<readonly T[]>): AsyncGenerator<string> {
  const fields = Object.values(cells);
  yield csvLines([Object.keys(cells)]);
  for await (const page of pages) if (page.length > 0) yield csvLines(page.map((item) => fields.map((cell) => cell(item))));
}

export const csvLines = (rows: readonly (readonly (string | number | null)[])[]): string =>
  stringify(rows.map((row) => row.map(textOf)), { quoted: true, escape_formulas: true, record_delimiter: '\r\n' });

/** The library escapes everything that begins a formula except a line feed, after which a formula may begin. */
const textOf = (cell: string | number | null): string => (cell === null ? '' : String(cell).replace(/^\n/, "'\n"));

/** The same as a JSON array, within a frame. */
export async function* jsonOf(pages: AsyncIterable<readonly unknown[]>, [before, after]: readonly [string, string] = ['[', ']']): AsyncGenerator<string> {
  yield before;
  let separator = '\n';
  for await (const page of pages) {
    if (page.length === 0) continue;
    yield separator + page.map((item) => JSON.stringify(item)).join(',\n');
    separator = ',\n';
  }
  yield `\n${after}\n`;
}
