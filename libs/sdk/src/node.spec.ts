import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it, jest } from '@jest/globals';
import { fileStore, machineFingerprint, nodeClock } from './node.ts';
import { localStorageStore, memoryStore } from './store.ts';

const folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-'));
afterAll(() => rmSync(folder, { recursive: true }));
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

/** The output of a program in a process of its own. */
function running(program: string): string {
  const args = ['--conditions=@keyledger/source', '--no-warnings', '--import', here('../../../tools/swc-register.mjs'), '--input-type=module', '--eval', program];
  const { stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  expect(stderr).toBe('');
  return stdout;
}

describe('A file store', () => {
  it('keeps one text, readable only by its owner, and leaves nothing beside it', async () => {
    const path = join(folder, 'new', 'license');
    const store = fileStore(path);
    expect(await store.read()).toBeNull();
    await store.write('one');
    await Promise.all(Array.from({ length: 20 }, (_, n) => store.write(`text ${n} ${'x'.repeat(10_000 * n)}`)));
    expect(String(await store.read())).toMatch(/^text \d+ x*$/);
    expect(readdirSync(dirname(path))).toEqual(['license']);
    expect([statSync(path).mode & 0o777, statSync(dirname(path)).mode & 0o777]).toEqual([0o600, 0o700]);
  });

  it('keeps the old text when it cannot write', async () => {
    writeFileSync(join(folder, 'file'), 'old');
    await expect(fileStore(join(folder, 'file', 'below')).write('new')).rejects.toThrow();
    await expect(fileStore(folder).read()).rejects.toThrow('EISDIR');
    expect(readFileSync(join(folder, 'file'), 'utf8')).toBe('old');
  });

  it('keeps its place when the program changes its working directory', async () => {
    const before = process.cwd();
    try {
      process.chdir(folder);
      const store = fileStore('relative');
      await store.write('text');
      process.chdir(tmpdir());
      expect([await store.read(), await store.shared?.take(), readdirSync(folder).filter((name) => name.startsWith('relative'))]).toEqual(['text', true, ['relative', 'relative.lead-1']]);
    } finally {
      process.chdir(before);
    }
  });

  it('is where the system finds its path, also behind a link', async () => {
    for (const path of ['linked/releases/42', 'linked/releases/shared']) mkdirSync(join(folder, path), { recursive: true });
    symlinkSync('releases/42', join(folder, 'linked', 'current'));
    const store = fileStore(`${folder}/linked/current/../shared/license`);
    await store.write('text');
    await store.shared?.take();
    expect(readdirSync(join(folder, 'linked', 'releases', 'shared')).toSorted()).toEqual(['license', 'license.lead-1']);
  });

  it('is in the working directory where HOME is empty, and one file however its path ends', () => {
    const home = mkdtempSync(join(folder, 'homeless-'));
    expect(running(`
      import { readdirSync } from 'node:fs';
      const { fileStore } = await import('${here('./node.ts')}');
      process.chdir('${home}');
      process.env.HOME = '';
      for (const path of ['~/at-home', 'relative//', '${home}/absolute/']) await fileStore(path).write('text');
      console.log(readdirSync('.').toSorted().join(' '));
    `)).toBe('absolute at-home relative\n');
  });

  it.each(['~/license', 'license'])('at %s fails like any other disk where there is no home and no working directory', (path) => {
    expect(running(`
      import { mkdtempSync, rmdirSync } from 'node:fs';
      import { syncBuiltinESMExports } from 'node:module';
      import os from 'node:os';
      const { fileStore } = await import('${here('./node.ts')}');
      os.homedir = () => { throw new Error('ENOENT'); };
      syncBuiltinESMExports();
      const gone = mkdtempSync('${join(folder, 'gone-')}');
      process.chdir(gone);
      rmdirSync(gone);
      const { read, write, shared } = fileStore('${path}');
      console.log(await Promise.all([read, () => write('text'), () => shared.tell('text'), () => shared.take()].map((step) => step().catch(() => 'rejected'))));
    `)).toBe("[ 'rejected', 'rejected', 'rejected', true ]\n");
  });

  it('behaves like the other stores', async () => {
    const web = new Map<string, string>();
    const storage = { getItem: (name: string) => web.get(name) ?? null, setItem: (name: string, value: string) => void web.set(name, value) };
    for (const store of [memoryStore(), localStorageStore('license', storage), fileStore(join(folder, 'third'))]) {
      expect(await store.read()).toBeNull();
      await store.write('text');
      expect(await store.read()).toBe('text');
    }
    expect(() => localStorageStore('x', undefined)).not.toThrow(ReferenceError);
  });
});

describe('The storage of a page', () => {
  it.each([
    ['blocks it', { get: () => { throw new DOMException('Access is denied', 'SecurityError'); } }, 'Access is denied'], ['has it switched off', { value: null }, 'switched localStorage off'],
  ])('fails like any other disk where the browser %s', async (_, property, message) => {
    Object.defineProperty(globalThis, 'localStorage', { configurable: true, ...property });
    try {
      const store = localStorageStore();
      await expect(store.read()).rejects.toThrow(message);
      await expect(store.write('text')).rejects.toThrow(message);
      // No tab can read what another one has written.
      expect([await store.shared?.take(), store.shared?.isAssumed?.(), await store.shared?.told()]).toEqual([true, true, []]);
    } finally {
      delete (globalThis as { localStorage?: unknown }).localStorage;
    }
  });
});

describe('The lead of a file', () => {
  const sharedAt = (name: string, takeOverMs: number) => {
    const { shared } = fileStore(join(folder, name), { takeOverMs });
    if (!shared) throw new Error('It cannot be shared');
    return shared;
  };

  it('is taken by one process, however many want it, and by one again when that gives it back', async () => {
    const all = Array.from({ length: 20 }, () => sharedAt('led', 60_000));
    for (let round = 0; round < 3; round++) {
      const taken = await Promise.all(all.map((one) => one.take()));
      const leader = all[taken.indexOf(true)];
      expect(taken.filter(Boolean)).toHaveLength(1);
      expect((await Promise.all(all.map((one) => one.leader()))).toSorted()).toEqual([...Array.from({ length: 19 }, () => 'other'), 'self']);
      await leader?.release();
      expect(new Set(await Promise.all(all.map((one) => one.leader())))).toEqual(new Set(['nobody']));
    }
    expect(readdirSync(folder).filter((name) => name.startsWith('led'))).toEqual(['led.lead-3']);
  });

  it('is taken from a leader that gave no sign of life for too long, which notices it', async () => {
    const [first, second] = [sharedAt('lost', 40), sharedAt('lost', 40)];
    expect([await first.take(), await second.leader(), await second.take()]).toEqual([true, 'other', false]);
    await until(async () => second.take());
    expect([await first.leader(), await first.take(), await second.leader()]).toEqual(['other', false, 'self']);
  });

  it('is free at first sight if its file was not touched for too long by the clock of the file system, whatever the machine’s clock says', async () => {
    const [first, early, late] = [sharedAt('stale', 10_000), sharedAt('stale', 10_000), sharedAt('stale', 10_000)];
    await first.take();
    const atFirst = statSync(join(folder, 'stale.lead-1')).mtimeMs;
    jest.useFakeTimers({ now: 0, doNotFake: ['hrtime', 'nextTick', 'performance', 'queueMicrotask', 'setImmediate', 'clearImmediate', 'setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'] });
    await first.take().finally(() => jest.useRealTimers());
    const touched = statSync(join(folder, 'stale.lead-1')).mtimeMs;
    expect([touched >= atFirst, await early.leader()]).toEqual([true, 'other']);
    utimesSync(join(folder, 'stale.lead-1'), new Date(touched - 11_000), new Date(touched - 11_000));
    expect([await late.leader(), await late.take(), await first.leader()]).toEqual(['nobody', true, 'other']);
    expect(readdirSync(folder).filter((name) => name.startsWith('stale'))).toEqual(['stale.lead-2']);
  });

  it('removes unfinished files of killed processes, and none that may still be written', async () => {
    const [left, current] = [join(folder, 'cleared.1.tmp'), join(folder, 'cleared.2.tmp')];
    for (const path of [left, current]) writeFileSync(path, 'half');
    utimesSync(left, new Date(), new Date(Date.now() - 7_200_000));
    expect(await sharedAt('cleared', 1_000).take()).toBe(true);
    expect(readdirSync(folder).filter((name) => name.startsWith('cleared')).toSorted()).toEqual(['cleared.2.tmp', 'cleared.lead-1']);
  });

  it('is kept, but only assumed, while the file that shows it cannot be touched', async () => {
    const path = join(folder, 'kept', 'license');
    const [first, second] = [sharedAt('kept/license', 10_000), sharedAt('kept/license', 10_000)];
    expect([await first.take(), await second.take(), first.isAssumed?.()]).toEqual([true, false, false]);
    rmSync(`${path}.lead-1`);
    symlinkSync('license.lead-1', `${path}.lead-1`);
    expect([await first.take(), first.isAssumed?.(), await second.take()]).toEqual([true, true, false]);
    renameSync(dirname(path), join(folder, 'away'));
    writeFileSync(dirname(path), '');
    // A moment later the folder may be there again, and the leader has noticed nothing.
    expect([await second.leader(), await second.take(), second.isAssumed?.()]).toEqual(['other', false, false]);
    await expect(first.take()).rejects.toThrow('ENOTDIR');
    rmSync(dirname(path));
    renameSync(join(folder, 'away'), dirname(path));
    rmSync(`${path}.lead-1`);
    writeFileSync(`${path}.lead-1`, '');
    expect([first.isAssumed?.(), await first.take(), first.isAssumed?.(), await second.take()]).toEqual([true, true, false, false]);
  });

  it('is taken where no file can be made', async () => {
    const alone = fileStore(join(folder, 'impossible', '\0')).shared;
    expect(await alone?.take()).toBe(true);
  });

  it('keeps the texts of other processes apart from its own', async () => {
    const [one, other] = [sharedAt('told', 1_000), sharedAt('told', 1_000)];
    expect([await one.create('first'), await other.create('second')]).toEqual([true, false]);
    await one.tell('news');
    expect([await one.told(), (await other.told()).map(({ text }) => text)]).toEqual([[], ['news']]);
    for (const { name } of await other.told()) await other.forget(name);
    expect(await other.told()).toEqual([]);
  });
});

async function until(isSo: () => Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 5));
}

describe('A fingerprint', () => {
  it('is hashed, the same each time, and prefers the override to all else', async () => {
    const env = { K8S_CLUSTER_UID: 'cluster-1', CLOUD_INSTANCE_ID: 'i-123' };
    const all = await Promise.all([{ override: 'rack-7', env }, { env }, { env, prefer: ['cloud-instance'] as const }, { env: { CLOUD_INSTANCE_ID: 'i-123' } }, { override: '', env }].map(machineFingerprint));
    expect(all.every((one) => /^[A-Za-z0-9_-]{43}$/.test(String(one)))).toBe(true);
    expect(new Set(all).size).toBe(3);
    expect([all[3], all[4]]).toEqual([all[2], all[1]]);
    expect(all.join()).not.toContain('cluster-1');
    expect(await machineFingerprint({ prefer: ['k8s-cluster-uid'] })).toBeUndefined();
  });
});

describe('The clock of the machine', () => {
  it('goes on', () => {
    const [first, second] = [nodeClock().read(), nodeClock().read()];
    expect(second.mono).toBeGreaterThanOrEqual(first.mono);
    if (process.platform === 'linux') expect(second.boot).toBe(first.boot);
  });
});

describe('What browsers load', () => {
  it('reaches nothing of Node', () => {
    const seen = new Set<string>();
    const visit = (path: string): void => {
      if (seen.has(path)) return;
      seen.add(path);
      for (const [, from = ''] of readFileSync(path, 'utf8').matchAll(/(?:^|\n)\s*(?:import|export)\s+(?!type\b)[^'";]*?from\s+'([^']+)'/g)) {
        if (from.startsWith('.')) visit(join(dirname(path), from));
        else if (from === '@keyledger/license-file') visit(here('../../license-file/src/index.ts'));
        else throw new Error(`${path} imports ${from}`);
      }
      expect(readFileSync(path, 'utf8')).not.toMatch(/\b(?:Buffer|process)\.\w/);
    };
    visit(here('./index.ts'));
    expect(seen.size).toBeGreaterThan(15);
  });

  it('fakes a license also in the jsdom of a test, which has no TextEncoder, TextDecoder and crypto.randomUUID', () => {
    expect(running(`
      delete globalThis.TextEncoder;
      delete globalThis.TextDecoder;
      Object.defineProperty(crypto, 'randomUUID', { value: undefined });
      const { License } = await import('${here('./index.ts')}');
      const license = License.fake({ features: ['sso'], quotas: [{ meter: 'reports', limit: 5, per: 'day' }] });
      console.log(license.quota('reports').tryConsume(2), (await license.record([{ meter: 'reports', value: 1 }])).ok, license.quota('reports').used);
      console.log(license.feature('sso').enabled, (await license.validate()).code, (await license.heartbeat.beat()).ok);
    `)).toBe('true true 3\ntrue VALID true\n');
  });
});

describe('The package that is published', () => {
  it('is only written over an earlier one or into an empty folder', () => {
    const name = JSON.stringify({ name: '@keyledger/sdk' });
    for (const [index, kept] of [{ 'a.txt': 'mine' }, { 'package.json': '{}' }, { 'package.json': name, 'a.txt': 'mine' }, { 'README.md': 'mine' }].entries()) {
      const target = join(folder, `package-${index}`);
      mkdirSync(target);
      for (const [file, text] of Object.entries(kept)) writeFileSync(join(target, file), text);
      const { status, stderr } = spawnSync(process.execPath, [here('../pack.mjs'), '.'], { cwd: target, encoding: 'utf8' });
      expect([status, stderr]).toEqual([1, expect.stringContaining(`${target} has something else in it`)]);
      expect(Object.fromEntries(readdirSync(target).map((file) => [file, readFileSync(join(target, file), 'utf8')]))).toEqual(kept);
    }
  });
});
