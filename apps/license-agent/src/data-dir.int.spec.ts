import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { DataDir, keptSecret, type Kept } from './data-dir.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'keyledger-agent-dir-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const kept: Kept = {
  installationId: 'installation-1', source: { kind: 'key', key: 'SECRET-KEY', state: 'one' }, leaving: [{ kind: 'key', key: 'SECRET-OLD-KEY', state: 'two', since: 1 }], at: 1, seen: { key: 'a' }, firstSeen: { lic_1: '2026-07-01T12:00:00.000Z' }, metered: {}, counted: {}, readings: [], messages: [{ id: 'm', text: 'Ünïcode', at: 'then' }],
};
const fileOf = () => join(folder, readdirSync(folder).find((name) => name.endsWith('.json')) ?? '');

describe('The data directory', () => {
  it('gives back what was written, to the same machine only', async () => {
    const dir = new DataDir(folder, 'machine-1');
    expect(await dir.open()).toMatchObject({ found: 'new', kept: { source: null } });
    await dir.write(kept);
    expect(await new DataDir(folder, 'machine-1').open()).toEqual({ found: 'restored', kept });
    expect(readFileSync(fileOf(), 'utf8')).not.toMatch(/SECRET|installation/);
    expect(await new DataDir(folder, 'machine-2').open()).toMatchObject({ found: 'foreign', kept: { source: null } });
    await new DataDir(folder, 'machine-2').write({ ...kept, installationId: 'other' });
    expect(await new DataDir(folder, 'machine-1').open()).toEqual({ found: 'restored', kept });
  });

  it('gives back in the shape of today what an older agent has written', async () => {
    const dir = new DataDir(folder, 'machine-1');
    const old = JSON.parse('{ "cores": { "day": "2026-07-02", "peak": 0, "lastPeak": 12, "exceededAt": "2026-07-02T00:00:00.000Z" }, "__proto__": { "day": "2026-07-02", "peak": 3, "lastPeak": 0, "exceededAt": null } }') as Kept['metered'];
    await dir.write({ ...kept, metered: old });
    expect(Object.entries((await dir.open()).kept.metered)).toEqual([
      ['cores', { day: '2026-07-02', peak: null, lastDay: '2026-07-01', lastPeak: 12, exceededAt: '2026-07-02T00:00:00.000Z', before: null }],
      ['__proto__', { day: '2026-07-02', peak: 3, lastDay: null, lastPeak: null, exceededAt: null, before: null }],
    ]);
  });

  it('takes nothing that was changed, whichever bit it is, and puts it aside', async () => {
    const dir = new DataDir(folder, 'machine-1');
    await dir.write(kept);
    const [path, bytes] = [fileOf(), readFileSync(fileOf())];
    await fc.assert(fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(7), async (at, bit) => {
      const other = Buffer.from(bytes);
      other[at] = (other[at] as number) ^ (1 << bit);
      writeFileSync(path, other);
      const opened = await dir.open();
      // Some bits of base64 mean nothing.
      if (opened.found === 'restored') expect(opened.kept).toEqual(kept);
      else expect([opened.found, readFileSync(path.replace('.json', '.damaged'))]).toEqual(['damaged', other]);
    }), { numRuns: 200 });
  });

  it('keeps the states that are named, of this machine and of others', async () => {
    const [dir, other] = [new DataDir(folder, 'machine-1'), new DataDir(folder, 'machine-2')];
    for (const name of ['one', 'two', 'three']) for (const one of [dir, other]) await one.store(name).write(name);
    writeFileSync(`${join(folder, readdirSync(folder)[0] ?? '')}.tmp`, '');
    await dir.tidy(kept);
    expect(await Promise.all([dir.store('one'), dir.store('two'), dir.store('three'), other.store('three')].map((store) => store.read()))).toEqual(['one', 'two', null, 'three']);
  });

  it('makes a secret once', async () => {
    const first = await keptSecret(folder, 'token');
    expect(first).toEqual({ value: expect.stringMatching(/^[\w-]{43}$/), isNew: true });
    expect(await keptSecret(folder, 'token')).toEqual({ value: first.value, isNew: false });
  });
});
