import { Readable, Writable } from 'node:stream';
import { gunzipSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from '@jest/globals';
import type { RecordedEvent } from '@keyledger/event-store';
import type { JsonObject } from '@keyledger/kernel';
import fc from 'fast-check';
import { BadArchive, headerOf, readArchive, writeArchive, type Header, type Part } from './archive.ts';

const event = (position: number, data: JsonObject = { seat: position }): RecordedEvent => ({
  id: `0195-${position}`, type: 'SeatTaken', data, metadata: { schema: 1 }, stream: 'license-a', revision: position - 1, position, recordedAt: '2026-11-21T00:00:00.000Z',
});
const header = headerOf('2026-11-21T01:00:00.000Z', { production: { head: 2, events: 2, rows: { seats: 1 }, migrations: ['seats-1'], probe: 'AT1N' } });
const parts: Part[] = [{ environment: 'production', events: [event(1), event(2)] }, { environment: 'production', table: 'seats', rows: [{ seat: 'a', n: 1, none: null }] }];

async function written(content: readonly Part[] = parts, head: Header = header): Promise<Buffer> {
  const chunks: Buffer[] = [];
  await writeArchive(head, Readable.from(content), new Writable({ write: (chunk: Buffer, _, done) => (chunks.push(chunk), done()) }));
  return Buffer.concat(chunks);
}

async function read(bytes: Buffer): Promise<{ header: Header; parts: Part[] }> {
  const found: Part[] = [];
  const { header: own } = await readArchive(Readable.from([bytes]), async (part) => void found.push(part));
  return { header: own, parts: found };
}

/** The same file with other lines. */
const edited = (bytes: Buffer, edit: (lines: string[]) => string[]) => gzipSync(edit(gunzipSync(bytes).toString().split(/(?<=\n)/)).join(''));

describe('An export', () => {
  it('is read as it was written', async () => {
    expect(await read(await written())).toEqual({ header, parts });
    expect(await read(await written([], header))).toEqual({ header, parts: [] });
  });

  it('keeps every text, number and object to the letter', async () => {
    const object = fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue({ stringUnit: 'binary' })).map((value) => JSON.parse(JSON.stringify(value)) as JsonObject);
    await fc.assert(fc.asyncProperty(fc.array(object, { maxLength: 5 }), async (contents) => {
      const [own] = [[{ environment: 'production', events: contents.map((data, at) => event(at + 1, data)) }].filter(({ events }) => events.length > 0)];
      expect((await read(await written(own))).parts).toEqual(own);
    }), { numRuns: 200 });
    const odd = [{ environment: 'production', events: [event(1, { text: '\u2028 \r\n \ud800 \u0000 "\\', long: 'x'.repeat(3_000_000) })] }];
    expect((await read(await written(odd))).parts).toEqual(odd);
  });

  it('comes in pages of one kind, however it was written', async () => {
    const events = Array.from({ length: 2_500 }, (_, at) => event(at + 1));
    const several: Part[] = [
      ...events.map((one): Part => ({ environment: 'control', events: [one] })), { environment: 'production', events: events.slice(0, 3) },
      { environment: 'production', table: 'a', rows: [{ n: 1 }] }, { environment: 'production', table: 'b', rows: [{ n: 2 }] },
    ];
    const found = (await read(await written(several))).parts;
    expect(found.map((part) => [part.environment, 'events' in part ? part.events.length : part.table])).toEqual([
      ['control', 1_000], ['control', 1_000], ['control', 500], ['production', 3], ['production', 'a'], ['production', 'b'],
    ]);
    expect(found.flatMap((part) => ('events' in part && part.environment === 'control' ? part.events : []))).toEqual(events);
  });

  it('names what it is in its first line', async () => {
    expect(JSON.parse(gunzipSync(await written()).toString().split('\n', 1)[0] as string)).toEqual(header);
  });
});

describe('A file is refused', () => {
  const whole = written();
  const refused = async (bytes: Buffer, why: RegExp | string = 'damaged or incomplete') => {
    await expect(readArchive(Readable.from([bytes]))).rejects.toThrow(why);
    await expect(readArchive(Readable.from([bytes]))).rejects.toThrow(BadArchive);
  };

  it('wherever it is cut off', async () => {
    const bytes = await whole;
    for (let end = 0; end < bytes.length; end++) await refused(bytes.subarray(0, end), /damaged|not a Keyledger export/);
  });

  it('whichever byte of it is another', async () => {
    const bytes = await whole;
    const first = await read(bytes);
    let read1 = 0;
    for (let at = 0; at < bytes.length; at++) {
      const other = Buffer.from(bytes);
      other[at] = (other[at] as number) ^ 0x10;
      // gzip's own header has bytes that mean nothing (a time, an operating system): then nothing is lost either.
      const outcome = await read(other).catch((error: unknown) => error);
      if (outcome instanceof Error) expect(outcome).toBeInstanceOf(BadArchive);
      else expect(outcome).toEqual(first);
      read1 += outcome instanceof Error ? 0 : 1;
    }
    expect(read1).toBeLessThan(10);
  });

  it('when a line is missing, doubled, changed, moved or added', async () => {
    const bytes = await whole;
    await refused(edited(bytes, ([head, , ...rest]) => [head as string, ...rest]));
    await refused(edited(bytes, ([head, one, ...rest]) => [head as string, one as string, one as string, ...rest]));
    await refused(edited(bytes, (lines) => lines.map((line) => line.replace('"seat":2', '"seat":3'))));
    await refused(edited(bytes, ([head, one, two, ...rest]) => [head, two, one, ...rest] as string[]));
    await refused(edited(bytes, (lines) => lines.slice(0, -1)));
    await refused(edited(bytes, (lines) => [...lines, lines[1] as string]));
    await refused(edited(bytes, (lines) => [...lines, lines.at(-1) as string]));
    await refused(Buffer.concat([bytes, bytes]));
  });

  it('when it is something else', async () => {
    await refused(Buffer.from('PK zip'), /damaged/);
    await refused(Buffer.alloc(0), /damaged|not a Keyledger export/);
    await refused(gzipSync('some text\nand more\n'), 'not a Keyledger export');
    await refused(gzipSync('{"format":"other"}\n{}\n'), 'not a Keyledger export');
    await refused(gzipSync('null\n{}\n'), 'not a Keyledger export');
    await refused(await written(parts, { ...header, version: 2 }), 'format 2; this release reads format 1');
  });

  it('with the reason when it cannot be read at all', async () => {
    const source = new Readable({ read() { this.destroy(new Error('EACCES: permission denied')); } });
    await expect(readArchive(source)).rejects.toThrow('EACCES');
  });
});
