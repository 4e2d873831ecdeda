import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { loadMasterKey } from './master-key.ts';

describe('The master key', () => {
  let dataDir: string;
  beforeEach(() => {
    dataDir = mkdtempSync(join(tmpdir(), 'keyring-'));
  });
  afterEach(() => rmSync(dataDir, { recursive: true }));

  const bytes = Buffer.from(Array.from({ length: 32 }, (_, i) => i * 7 + 128));
  const inFile = (content: string | Uint8Array) => {
    const file = join(dataDir, 'given');
    writeFileSync(file, content);
    return file;
  };

  it.each([['hex', bytes.toString('hex')], ['hex in capitals', bytes.toString('hex').toUpperCase()], ['base64', bytes.toString('base64')], ['base64url', bytes.toString('base64url')]])('is read as %s', (_, text) => {
    expect(loadMasterKey({ value: text, dataDir })).toEqual(bytes);
    expect(loadMasterKey({ file: inFile(`${text}\n`), dataDir })).toEqual(bytes);
  });

  it('is given once: two that differ are refused, for nobody knows which of them is meant', () => {
    expect(loadMasterKey({ value: bytes.toString('hex'), file: inFile(bytes), dataDir })).toEqual(bytes);
    expect(() => loadMasterKey({ value: Buffer.from(bytes).reverse().toString('hex'), file: inFile(bytes), dataDir })).toThrow(/^KEYLEDGER_MASTER_KEY and KEYLEDGER_MASTER_KEY_FILE/);
  });

  it('is read from a file of bare bytes', () => expect(loadMasterKey({ file: inFile(bytes), dataDir })).toEqual(bytes));

  it.each(['short', bytes.toString('hex').slice(2), bytes.subarray(1).toString('base64'), 'not base64 at all, is it?', Buffer.alloc(33).toString('base64'), `!${bytes.toString('base64')}`, `${bytes.toString('base64')}!`])('is refused by name when it is %j', (text) => {
    expect(() => loadMasterKey({ value: text, dataDir })).toThrow(/^KEYLEDGER_MASTER_KEY must be 32 bytes/);
    expect(() => loadMasterKey({ file: inFile(text), dataDir })).toThrow(/^KEYLEDGER_MASTER_KEY_FILE .* must be 32 bytes/);
  });

  it('is no text of 32 characters, but goes on as one from a file', () => {
    const text = bytes.toString('hex').slice(32);
    expect(() => loadMasterKey({ value: text, dataDir })).toThrow(/^KEYLEDGER_MASTER_KEY must be 32 bytes in base64 or hex, not 32 characters.*KEYLEDGER_MASTER_KEY_FILE/);
    expect(loadMasterKey({ file: inFile(text), dataDir })).toEqual(Buffer.from(text));
  });

  it('is missed by name when its file is not there', () => {
    expect(() => loadMasterKey({ file: join(dataDir, 'nowhere'), dataDir })).toThrow(/^KEYLEDGER_MASTER_KEY_FILE: cannot read/);
  });

  it('is made at the first start, for nobody else to read, and found at the second', () => {
    const made = loadMasterKey({ dataDir: join(dataDir, 'new') });
    expect(made).toHaveLength(32);
    expect([join(dataDir, 'new'), join(dataDir, 'new', 'master.key')].map((path) => (statSync(path).mode & 0o777).toString(8))).toEqual(['700', '600']);
    expect(readdirSync(join(dataDir, 'new'))).toEqual(['master.key']);
    expect(loadMasterKey({ dataDir: join(dataDir, 'new') })).toEqual(made);
    expect(loadMasterKey({ dataDir })).not.toEqual(made);
  });

  it('is the same one for processes that start together for the first time', async () => {
    const code = `import(workerData.module).then(({ loadMasterKey }) => {
      Atomics.add(workerData.here, 0, 1);
      while (Atomics.load(workerData.here, 0) < 2);
      parentPort.postMessage(loadMasterKey({ dataDir: workerData.dataDir }).toString('hex'));
    });`;
    const workerData = { dataDir, module: new URL('./master-key.ts', import.meta.url).href, here: new Int32Array(new SharedArrayBuffer(4)) };
    const execArgv = ['--import', new URL('../../../tools/swc-register.mjs', import.meta.url).href];
    const keys = await Promise.all(Array.from({ length: 2 }, () => new Promise((resolve, reject) => {
      new Worker(`const { parentPort, workerData } = require('node:worker_threads'); ${code}`, { eval: true, execArgv, workerData }).once('message', resolve).once('error', reject);
    })));
    expect(new Set(keys)).toEqual(new Set([loadMasterKey({ dataDir }).toString('hex')]));
  });

  it('is missed, and not made, where it must be one that exists', () => {
    expect(() => loadMasterKey({ dataDir, existing: true })).toThrow(/no master key: .*KEYLEDGER_MASTER_KEY_FILE/);
    expect(readdirSync(dataDir)).toEqual([]);
    const made = loadMasterKey({ dataDir });
    expect(loadMasterKey({ dataDir, existing: true })).toEqual(made);
  });

  it('is not made anew over one that is damaged', () => {
    writeFileSync(join(dataDir, 'master.key'), 'damaged');
    expect(() => loadMasterKey({ dataDir })).toThrow(/master\.key must be 32 bytes/);
  });
});
