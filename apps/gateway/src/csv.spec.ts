import { describe, expect, it } from '@jest/globals';
import { parse } from 'csv-parse/sync';
import fc from 'fast-check';
import { csvLines, csvOf, importRows, jsonOf } from './csv.ts';

async function read(file: string) {
  const rows = [];
  for await (const row of importRows(Buffer.from(file))) rows.push(row);
  return rows;
}
const refusedWith = (members: object) => expect.objectContaining({ code: 'VALIDATION_FAILED', ...members });
const [a, b] = [{ licenseKey: 'AAAA-1', customerEmail: 'ada@example.com' }, { licenseKey: 'BBBB-2', customerEmail: 'bob@example.com' }];

describe('A file to import', () => {
  it.each([
    ['with commas', 'licenseKey,customerEmail\nAAAA-1,ada@example.com\nBBBB-2,bob@example.com\n'],
    ['with semicolons, as Excel writes it', '\ufefflicenseKey;customerEmail\r\nAAAA-1;ada@example.com\r\nBBBB-2;bob@example.com\r\n'],
    ['with tabs, quotes and spaces', 'LicenseKey\t"customerEmail"\n"AAAA-1"\t ada@example.com \n"BBBB-2"\tbob@example.com'],
    ['with its columns the other way round, empty lines and line ends of a Mac', 'customerEmail,licenseKey\r\rada@example.com,AAAA-1\rbob@example.com,BBBB-2\r\r'],
    ['with line ends of all kinds', 'licenseKey,customerEmail\r\nAAAA-1,ada@example.com\nBBBB-2,bob@example.com\r'],
  ])('is read %s', async (_, file) => expect(await read(file)).toEqual([a, b]));

  it('may have delimiters, quotes and line ends within quotes', async () =>
    expect(await read('licenseKey,customerEmail\n"A,""A""\n1",ada@example.com')).toEqual([{ licenseKey: 'A,"A"\n1', customerEmail: 'ada@example.com' }]));

  it.each([
    ['', ['/licenseKey', '/customerEmail']],
    ['\ufeff', ['/licenseKey', '/customerEmail']],
    ['AAAA-1,ada@example.com', ['/licenseKey', '/customerEmail', '/AAAA-1', '/ada@example.com']],
    ['licenseKey\nAAAA-1', ['/customerEmail']],
    ['licenseKey,email\nAAAA-1,ada@example.com', ['/customerEmail', '/email']],
    ['licenseKey,customerEmail,licenseKey', ['/licenseKey']],
  ])('is refused without its header, column by column: %j', async (file, pointers) =>
    expect(read(file)).rejects.toThrow(refusedWith({ members: { errors: pointers.map((pointer) => expect.objectContaining({ pointer })) } })));

  it.each([
    ['licenseKey,customerEmail\nA,"b', 'Line 2 of the file has an unclosed quote'],
    ['licenseKey,customerEmail\nA,b\n"A"x,b', 'Line 3 of the file has text after a closing quote'],
    ['licenseKey,customerEmail\nA,b"c', 'Line 2 of the file has a quote in the middle of a field'],
    [`licenseKey,customerEmail\n${'x'.repeat(20_000)},b`, 'Line 2 of the file is too long'],
  ])('is refused where it is no CSV, without repeating it: %#', async (file, message) => expect(read(file)).rejects.toThrow(refusedWith({ message })));

  it('says in the row what is wrong with it, and goes on', async () => {
    const file = `licenseKey,customerEmail\nAAAA-1,ada@example.com\n,x@example.com\nCCCC,\nDDDD,x@example.com,more\nEEEE\n${'F'.repeat(256)},x@example.com\nG\0,x@example.com\naaaaL,bob@example.com\nBBBB-2,bob@example.com`;
    expect(await read(file)).toEqual([a, ...[
      'licenseKey is missing', 'customerEmail is missing', 'The row has 3 fields, but the header has 2', 'The row has 1 fields, but the header has 2', 'licenseKey is too long', 'licenseKey contains NUL',
      'The license already appears in row 1',
    ].map((fault) => ({ licenseKey: '', customerEmail: '', fault })), b]);
  });

  it('of many megabytes gives way to others', async () => {
    const file = `licenseKey,customerEmail\n${Array.from({ length: 50_000 }, (_, n) => `KEY-${n},somebody-${n}@example.com`).join('\n')}`;
    let turns = 0;
    const clock = setInterval(() => { turns += 1; }, 0);
    expect(await read(file)).toHaveLength(50_000);
    clearInterval(clock);
    expect(turns).toBeGreaterThan(5);
  });
});

const cell = fc.oneof(fc.string({ unit: 'binary' }), fc.string({ unit: fc.constantFrom('=', '+', '-', '@', '\t', '\r', '\n', '"', "'", ',', ';', '|', 'a', '1', ' ', '\ufeff') }));
const isFormula = (text: string) => /^[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text);

describe('A file that is written', () => {
  it('can be read again, and has no cell that a spreadsheet would take for a formula', () => {
    fc.assert(fc.property(fc.array(fc.array(cell, { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 8 }), (rows) => {
      const text = csvLines(rows);
      const again = parse(text, { record_delimiter: '\r\n' });
      expect(again).toEqual(rows.map((row) => row.map((each) => (isFormula(each) ? `'${each}` : each))));
      expect(again.flat().filter(isFormula)).toEqual([]);
    }), { numRuns: 500 });
  });

  it('has what was there in the order of the columns, in either format', async () => {
    const pages = async function* () { yield [{ n: 1, t: '=1+1' }, { n: 2, t: null }]; yield []; yield [{ n: 3, t: 'ä' }]; };
    const all = async (text: AsyncIterable<string>) => { let whole = ''; for await (const part of text) whole += part; return whole; };
    expect(await all(csvOf<{ n: number; t: string | null }>({ number: ({ n }) => n, text: ({ t }) => t }, pages()))).toBe('"number","text"\r\n"1","\'=1+1"\r\n"2",\r\n"3","ä"\r\n');
    expect(JSON.parse(await all(jsonOf(pages())))).toEqual([{ n: 1, t: '=1+1' }, { n: 2, t: null }, { n: 3, t: 'ä' }]);
    expect(JSON.parse(await all(jsonOf((async function* () { yield []; })(), ['{"data":[', ']}'])))).toEqual({ data: [] });
  });
});
