import { createHash } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, createGzip } from 'node:zlib';
import type { Position, RecordedEvent } from '@keyledger/event-store';
import type { Instant } from '@keyledger/kernel';
import type { Row } from '@keyledger/read-models';

/*
 * An export is one file: gzip of JSON lines. The first is the header; then one line per event and one per row of a state table, environment by
 * environment, each environment's events first, in log order; the last one is the SHA-256 of all lines before it.
 */
const FORMAT = 'keyledger-export';
const VERSION = 1;
/** Events or rows that are handled together. */
const PAGE = 1_000;
const CHUNK_BYTES = 256 * 1024;

export interface Header {
  readonly format: typeof FORMAT;
  readonly version: number;
  readonly madeAt: Instant;
  readonly environments: Readonly<Record<string, Contents>>;
}

/** What the file holds of an environment. */
export interface Contents {
  /** Position of the last event. */
  readonly head: Position;
  readonly events: number;
  /** Of each state table. */
  readonly rows: Readonly<Record<string, number>>;
  /** That these tables have been through. */
  readonly migrations: readonly string[];
  /** Tells which master key the data keys are wrapped under. */
  readonly probe: string;
}

/** Events that follow one another in the log, or rows of one table. */
export type Part = { readonly environment: string } & ({ readonly events: readonly RecordedEvent[] } | { readonly table: string; readonly rows: readonly Row[] });
type Line = { readonly environment: string; readonly event: RecordedEvent } | { readonly environment: string; readonly table: string; readonly row: Row };

export const headerOf = (madeAt: Instant, environments: Header['environments']): Header => ({ format: FORMAT, version: VERSION, madeAt, environments });

export async function writeArchive(header: Header, parts: AsyncIterable<Part>, sink: Writable): Promise<void> {
  await pipeline(bytesOf(header, parts), createGzip({ chunkSize: CHUNK_BYTES }), sink);
}

async function* bytesOf(header: Header, parts: AsyncIterable<Part>): AsyncGenerator<Buffer> {
  const hash = createHash('sha256');
  const hashed = (lines: readonly unknown[]) => {
    const bytes = Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
    hash.update(bytes);
    return bytes;
  };
  yield hashed([header]);
  for await (const part of parts) {
    const { environment } = part;
    yield hashed('events' in part ? part.events.map((event): Line => ({ environment, event })) : part.rows.map((row): Line => ({ environment, table: part.table, row })));
  }
  yield Buffer.from(`${JSON.stringify({ sha256: hash.digest('hex') })}\n`);
}

/** What is wrong with the file itself, in words for whoever brought it. */
export class BadArchive extends Error {
  override readonly name = 'BadArchive';
}

/**
 * Reads an export to its end, and hands over its parts if anybody takes them. Rejects with BadArchive when it is not one, is of a newer kind,
 * or is not whole; but it is only known at the end, so read it once without taking anything.
 */
export async function readArchive(source: Readable, take?: (part: Part) => Promise<void>): Promise<{ readonly header: Header; readonly digest: string }> {
  const hash = createHash('sha256');
  let header: Header | undefined;
  let held: Buffer | undefined;
  const pages = new Pages(take);
  for await (const line of linesOf(unpacked(source))) {
    if (held) {
      hash.update(held);
      if (!header) header = headerIn(held);
      else if (take) await pages.add(JSON.parse(held.toString()) as Line);
    }
    held = line;
  }
  const digest = hash.digest('hex');
  if (!header || held?.toString() !== `${JSON.stringify({ sha256: digest })}\n`) throw new BadArchive('it is damaged or incomplete');
  await pages.end();
  return { header, digest };
}

/** Gathers lines of the same kind. */
class Pages {
  readonly #take: ((part: Part) => Promise<void>) | undefined;
  #lines: Line[] = [];

  constructor(take: ((part: Part) => Promise<void>) | undefined) {
    this.#take = take;
  }

  async add(line: Line): Promise<void> {
    const [first] = this.#lines;
    if (first && (this.#lines.length === PAGE || first.environment !== line.environment || tableOf(first) !== tableOf(line))) await this.end();
    this.#lines.push(line);
  }

  async end(): Promise<void> {
    const lines = this.#lines;
    this.#lines = [];
    const [first] = lines;
    if (!first) return;
    const { environment } = first;
    await this.#take?.('table' in first
      ? { environment, table: first.table, rows: lines.map((line) => (line as typeof first).row) }
      : { environment, events: lines.map((line) => (line as typeof first).event) });
  }
}

const tableOf = (line: Line): string | undefined => ('table' in line ? line.table : undefined);

function headerIn(line: Buffer): Header {
  const { format, version, ...rest } = json(line) as Partial<Header>;
  if (format !== FORMAT) throw new BadArchive('it is not a Keyledger export');
  if (version !== VERSION) throw new BadArchive(`it has format ${version}; this release reads format ${VERSION}`);
  return { format, version, ...rest } as Header;
}

function json(line: Buffer): object {
  try {
    return Object(JSON.parse(line.toString())) as object;
  } catch {
    throw new BadArchive('it is not a Keyledger export');
  }
}

async function* unpacked(source: Readable): AsyncGenerator<Buffer> {
  const gunzip = createGunzip({ chunkSize: CHUNK_BYTES });
  source.once('error', (error) => gunzip.destroy(error)).pipe(gunzip);
  try {
    yield* gunzip as AsyncIterable<Buffer>;
  } catch (error) {
    throw String((error as NodeJS.ErrnoException).code).startsWith('Z_') ? new BadArchive(`it is damaged or incomplete (${(error as Error).message})`) : error;
  } finally {
    source.destroy();
  }
}

/** With their line breaks. (Node's readline would also break at U+2028, which JSON leaves as it is.) */
async function* linesOf(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let rest: Buffer[] = [];
  for await (const chunk of chunks) {
    let from = 0;
    for (let end: number; (end = chunk.indexOf('\n', from)) >= 0; from = end + 1) {
      yield Buffer.concat([...rest, chunk.subarray(from, end + 1)]);
      rest = [];
    }
    if (from < chunk.length) rest.push(chunk.subarray(from));
  }
  if (rest.length > 0) yield Buffer.concat(rest);
}
