import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from '@jest/globals';
import { NO_STREAM } from '@keyledger/event-store';
import { Keyring, loadMasterKey, StoredDataKeys } from '@keyledger/keyring';
import { createLog, Metrics } from '@keyledger/observability';
import { schemas } from '@keyledger/standalone/schemas';
import { openRecords, stateMigrations } from '@keyledger/stores';

const folder = mkdtempSync(join(tmpdir(), 'keyledger-cli-'));
afterAll(() => rmSync(folder, { recursive: true }));
const dataDir = join(folder, 'data');
const options = { cwd: fileURLToPath(new URL('../../../', import.meta.url)), env: { PATH: process.env['PATH'], KEYLEDGER_DATA_DIR: dataDir } };

function start(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url));
  return spawn(process.execPath, ['--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', main, ...args], { ...options, env: { ...options.env, ...env } });
}

async function keyledger(args: readonly string[], { env = {}, input }: { env?: NodeJS.ProcessEnv; input?: Uint8Array } = {}) {
  const child = start(args, env);
  child.stdin.on('error', () => undefined).end(input);
  const [out, said, [code]] = await Promise.all([buffer(child.stdout), text(child.stderr), once(child, 'close')]);
  return { code: code as number, out, said };
}

describe('keyledger', () => {
  it.each([[], ['--help'], ['export', '-h']])('says what it can do on one screen: %j', async (...args) => {
    const { code, out, said } = await keyledger(args);
    expect({ code, said }).toEqual({ code: 0, said: '' });
    const lines = out.toString().trimEnd().split('\n');
    expect(lines.length).toBeLessThanOrEqual(24);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(100);
    for (const word of ['export --to', 'import --from', 'KEYLEDGER_DATA_DIR', 'DATABASE_URL', 'KEYLEDGER_MASTER_KEY']) expect(out.toString()).toContain(word);
  });

  it.each([
    [['restore'], 'there is no command restore'], [['export'], 'export needs --to <file>'], [['import', '--from'], "Option '--from <value>' argument missing"],
    [['import', '--to', 'x'], 'import needs --from <file>'], [['export', '--to', 'x', '--from', 'y'], 'export accepts only --to'], [['export', 'all', '--to', 'x'], 'give exactly one command'],
    [['export', '--all'], "Unknown option '--all'"], [['--to', 'x'], 'give exactly one command'],
  ])('does not guess: %j', async (args, why) => {
    expect(await keyledger(args)).toEqual({ code: 2, out: Buffer.alloc(0), said: `keyledger: ${why} (keyledger --help)\n` });
  });

  it.each([
    [{}, /^keyledger: There is nothing to export in .*data \(KEYLEDGER_DATA_DIR\)\n$/], [{ DATABASE_URL: 'mysql://x' }, /^keyledger: DATABASE_URL must begin with postgresql:\/\/\n$/],
    [{ DATABASE_URL: 'postgresql://127.0.0.1:1/x' }, /^keyledger: [^\n]*127\.0\.0\.1:1[^\n]*\n$/],
  ])('says in one line what went wrong: %j', async (env, why) => {
    expect(await keyledger(['export', '--to', join(folder, 'out.gz')], { env })).toEqual({ code: 1, out: Buffer.alloc(0), said: expect.stringMatching(why) });
  });

  it('leaves no copy of what came in when it is broken off', async () => {
    const temporary = mkdtempSync(join(folder, 'tmp-'));
    const child = start(['import', '--from', '-'], { TMPDIR: temporary });
    child.stdin.write('the beginning of an export');
    const copies = () => readdirSync(temporary, { recursive: true }).map(String).filter((path) => path.startsWith('keyledger-import-'));
    while (copies().length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
    child.kill('SIGINT');
    expect(await once(child, 'close')).toEqual([130, null]);
    expect(copies()).toEqual([]);
  });

  it('writes to standard output and reads from standard input, and nothing else comes in between', async () => {
    const config = { dataDir, masterKey: { value: undefined, file: undefined }, databaseUrl: undefined, eventStoreUrl: undefined, connections: 1 };
    const records = await openRecords(config, { log: createLog({ level: 'silent', service: 'test' }), metrics: new Metrics('test', { processMetrics: false }) }, stateMigrations(schemas));
    const masterKey = loadMasterKey({ dataDir });
    for (const [environment, store] of records.events.entries()) {
      await Keyring.open({ masterKey, environment, dataKeys: new StoredDataKeys(records.state.of(environment)) });
      await store.append('license-a', NO_STREAM, [{ id: crypto.randomUUID(), type: 'LicenseIssued', data: {}, metadata: { schema: 1 } }]);
    }
    await records.close();

    const { code, out, said } = await keyledger(['export', '--to', '-']);
    expect({ code, said }).toEqual({ code: 0, said: 'Exported 3 events and 3 rows\n' });
    const target = { KEYLEDGER_DATA_DIR: join(folder, 'other'), KEYLEDGER_MASTER_KEY_FILE: join(dataDir, 'master.key') };
    expect(await keyledger(['import', '--from', '-'], { env: target, input: out.subarray(0, -9) })).toMatchObject({ code: 1, said: expect.stringContaining('what came in cannot be used; nothing was written') });
    expect(await keyledger(['import', '--from', '-'], { env: target, input: out })).toEqual({ code: 0, out: Buffer.alloc(0), said: 'Imported 3 events and 3 rows\n' });
    const again = await keyledger(['export', '--to', '-'], { env: target });
    expect(again.said).toBe('Exported 3 events and 3 rows\n');
  });
});
