import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterAll, describe, expect, it } from '@jest/globals';
import { anEvent, eventStoreContract } from './event-store.contract.ts';
import { NO_STREAM, type RecordedEvent } from './port.ts';
import { SqliteEventStore, SqliteEventStores } from './sqlite.ts';

const folder = mkdtempSync(join(tmpdir(), 'event-store-'));
let files = 0;
const newFile = () => join(folder, `${++files}.db`);
const fileOf = new WeakMap<object, string>();
afterAll(() => rmSync(folder, { recursive: true }));

async function open(file = newFile(), options = {}): Promise<SqliteEventStore> {
  const store = await SqliteEventStore.open(file, { handlerFailed: () => undefined, ...options });
  fileOf.set(store, file);
  return store;
}

eventStoreContract('SqliteEventStore', open, {
  reopen: async (store) => {
    await store.close();
    return open(fileOf.get(store));
  },
});

/** strace can make a single fsync fail. Not every machine has or allows it. */
const canFailOneFsync = spawnSync('strace', ['-f', '-o', '/dev/null', 'true']).status === 0;
if (!canFailOneFsync) console.warn('SKIPPED: what the event store does after a failed fsync, because there is no strace (or no right to use it) on this machine');

/** A process of its own on the same sources. `code` has `store`, `event(data)` and `say(line)`; it lives until it is killed. `before` runs in the shell that starts it. */
function child(file: string, code: string, before = ':', through = '') {
  const script = `
    const { SqliteEventStore } = await import(${JSON.stringify(new URL('./sqlite.ts', import.meta.url).href)});
    const say = (line) => new Promise((resolve) => process.stdout.write(line + '\\n', resolve));
    const store = await SqliteEventStore.open(${JSON.stringify(file)}, { failed: (error) => say('failed ' + error.message) }).catch((error) => say('refused ' + error.message));
    const event = (data) => ({ id: crypto.randomUUID(), type: 'SeatTaken', data, metadata: { schema: 1 } });
    ${code}
    setInterval(() => {}, 1e6);`;
  const args = ['--conditions=@keyledger/source', '--input-type=module', '--eval', script];
  const own = spawn('bash', ['-c', `${before}; exec ${through} "$@"`, 'bash', process.execPath, ...args], { stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  let output = '';
  own.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  return {
    lines: () => output.split('\n').slice(0, -1),
    async until(done: (lines: string[]) => boolean) {
      while (!done(this.lines())) await once(own.stdout, 'data');
      return this.lines();
    },
    async kill() {
      const closed = once(own, 'close');
      process.kill(-(own.pid as number), 'SIGKILL');
      await closed;
      return this.lines();
    },
  };
}

async function everything(store: SqliteEventStore): Promise<RecordedEvent[]> {
  const all: RecordedEvent[] = [];
  for (let page; (page = await store.readAll(all.length)).length > 0;) all.push(...page);
  return all;
}

describe('SqliteEventStore', () => {
  it('gives dense positions from 1, also when appends in between are refused', async () => {
    const store = await open();
    const racing = Array.from({ length: 300 }, (_, n) => store.append(`license-${n % 20}`, n % 3 ? 'any' : NO_STREAM, [anEvent(), anEvent()]));
    const outcomes = await Promise.allSettled(racing);
    expect(new Set(outcomes.map(({ status }) => status)).size).toBe(2);
    const all = await everything(store);
    expect(all.map(({ position }) => position)).toEqual(all.map((_, index) => index + 1));
    await store.close();
  });

  it('shows live subscribers the event before the caller gets his answer, the same object to all', async () => {
    const store = await open();
    const seen: RecordedEvent[][] = [[], []];
    const subscriptions = seen.map((events) => store.subscribe(0, (batch) => void events.push(...batch)));
    await Promise.resolve();
    const event = anEvent();
    await store.append('license-a', NO_STREAM, [event]);
    expect(seen.map((events) => events.length)).toEqual([1, 1]);
    expect(seen[0]?.[0]).toBe(seen[1]?.[0]);
    expect(seen[0]?.[0]?.data).toBe(event.data);
    expect(subscriptions.map(({ position }) => position)).toEqual([1, 1]);
    await store.close();
  });

  it('has shown every subscriber an event when it answers, however many append', async () => {
    const store = await open();
    const subscriptions = [undefined, [{ category: 'license' }], [{ category: 'order' }]].map((follows) => store.subscribe(0, () => undefined, follows));
    let late = 0;
    await Promise.all(Array.from({ length: 16 }, async (_, writer) => {
      for (let n = 0; n < 40; n++) {
        const { position } = await store.append(`license-${writer}`, 'any', [anEvent()]);
        if (subscriptions.some((subscription) => subscription.position < position)) late++;
        // So that some are being written while others come.
        for (let turns = (n * 7 + writer) % 3; turns > 0; turns--) await new Promise(setImmediate);
      }
    }));
    expect(late).toBe(0);
    await store.close();
  });

  it('hands what is no longer in memory to subscribers that are far behind', async () => {
    const store = await open();
    for (let n = 0; n < 7; n++) await store.append('license-a', 'any', Array.from({ length: 1000 }, () => anEvent()));
    const positions: number[] = [];
    await new Promise<void>((resolve) => store.subscribe(500, (batch) => {
      positions.push(...batch.map(({ position }) => position));
      if (positions.length === 6500) resolve();
    }));
    expect(positions).toEqual(Array.from({ length: 6500 }, (_, index) => 501 + index));
    await store.close();
  });

  it('commits in groups', async () => {
    const seconds: number[] = [];
    const file = newFile();
    const store = await open(file, { observe: (time: number) => seconds.push(time) });
    await Promise.all(Array.from({ length: 500 }, (_, n) => store.append(`license-${n}`, NO_STREAM, [anEvent()])));
    const groups = new Set((await store.readAll(0)).map(({ recordedAt }) => recordedAt));
    expect(groups.size).toBeLessThan(25);
    expect(seconds).toHaveLength(500);
    expect(Math.min(...seconds)).toBeGreaterThan(0);
    await store.close();
  });

  it('refuses alone what the database will not hold, and writes on', async () => {
    const store = await open();
    const [one, same] = ['license-\ud800', 'license-\ud801']; // SQLite takes them for the same name.
    await expect(store.append(same, 0, [anEvent()])).rejects.toMatchObject({ actual: NO_STREAM });
    await store.append(one, NO_STREAM, [anEvent()]);
    const outcomes = await Promise.allSettled([['license-a'], [same], ['license-b']].map(([name = '']) => store.append(name, NO_STREAM, [anEvent(), anEvent()])));
    expect(outcomes.map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as Error).name : outcome.value.revision))).toEqual([1, 'RangeError', 1]);
    expect(store.head()).toBe(5);
    await store.close();
  });

  it('answers appends that were made before it is closed, and refuses later ones', async () => {
    const file = newFile();
    const store = await open(file);
    const appends = Array.from({ length: 50 }, (_, n) => store.append(`license-${n}`, NO_STREAM, [anEvent()]));
    const closing = store.close();
    await expect(store.append('license-late', NO_STREAM, [anEvent()])).rejects.toThrow('closed');
    await Promise.all([...appends, closing]);
    const again = await open(file);
    expect(again.head()).toBe(50);
    await again.close();
  });

  it('keeps environments in files of their own', async () => {
    const paths = { production: newFile(), staging: newFile() };
    const stores = await SqliteEventStores.open(paths);
    await Promise.all(Array.from({ length: 20 }, (_, n) => stores.of(n % 2 ? 'production' : 'staging').append(`license-${n}`, NO_STREAM, [anEvent({ seat: n })])));
    const seatsIn = async (environment: string) => (await stores.of(environment).readAll(0)).map(({ data }) => Number(data.seat) % 2);
    expect(await seatsIn('production')).toEqual(Array.from({ length: 10 }, () => 1));
    expect(await seatsIn('staging')).toEqual(Array.from({ length: 10 }, () => 0));
    await stores.close();
  });

  it('opens none of several files when one cannot be opened', async () => {
    const production = newFile();
    await expect(SqliteEventStores.open({ production, staging: join(folder, 'no', 'such', 'folder.db') })).rejects.toThrow('unable to open');
    await (await open(production)).close();
  });

  it('refuses changes of the past, whoever asks', async () => {
    const file = newFile();
    const store = await open(file);
    await store.append('license-a', NO_STREAM, [anEvent()]);
    const other = new DatabaseSync(file);
    expect(() => other.exec("UPDATE events SET data = '{}'")).toThrow('events are never changed');
    expect(() => other.exec('DELETE FROM events')).toThrow('events are never deleted');
    expect(other.prepare('SELECT count(*) AS n FROM events').get()).toMatchObject({ n: 1 });
    other.close();
    await store.close();
  });

  it('waits for the disk: WAL, synchronous=FULL, also on a file that is opened again', async () => {
    const file = newFile();
    await (await open(file)).close();
    const store = await open(file);
    expect(store.synchronous).toBe(2);
    const other = new DatabaseSync(file);
    expect(other.prepare('PRAGMA journal_mode').get()).toMatchObject({ journal_mode: 'wal' });
    other.close();
    await store.close();
  });

  it('leaves a file of a later release alone', async () => {
    const file = newFile();
    await (await open(file)).close();
    const later = new DatabaseSync(file);
    later.exec('PRAGMA user_version = 2');
    later.close();
    await expect(open(file)).rejects.toThrow('has schema version 2; this release knows 1');
  });

  it('lets no second process, nor a second store in this one, open the file', async () => {
    const file = newFile();
    const store = await open(file);
    await expect(open(file)).rejects.toThrow('already open for writing');
    const second = child(file, '');
    expect((await second.until((lines) => lines.length > 0))[0]).toContain('already open for writing');
    await second.kill();
    await store.append('license-a', NO_STREAM, [anEvent()]);
    await store.close();
    await (await open(file)).close();
  });

  it('loses nothing that was answered when it is killed in a group commit', async () => {
    const file = newFile();
    const answered: string[] = [];
    for (let round = 0; round < 4; round++) {
      const writer = child(file, `
        for (let w = 0; w < 32; w++) void (async () => {
          for (;;) {
            const events = [event({}), event({})];
            const { position } = await store.append('license-' + w, 'any', events);
            await say(events[1].id + ' ' + position);
          }
        })();`);
      await writer.until((lines) => lines.length > 300 + 100 * round);
      answered.push(...(await writer.kill()));
      const store = await open(file);
      const all = await everything(store);
      const stored = new Set(all.map(({ id, position }) => `${id} ${position}`));
      expect(answered.filter((line) => !stored.has(line))).toEqual([]);
      expect(stored.size).toBe(all.length);
      expect(all.length % 2).toBe(0);
      expect(all.map(({ position }) => position)).toEqual(all.map((_, index) => index + 1));
      for (let w = 0; w < 32; w++) {
        const own = all.filter(({ stream }) => stream === `license-${w}`);
        expect(own.map(({ revision }) => revision)).toEqual(own.map((_, index) => index));
      }
      await store.close();
    }
  }, 60_000);

  it('takes no more writes once one has failed, but still reads', async () => {
    // The limit on the size of a file stands in for a broken disk: the write to the WAL fails with an I/O error.
    const writer = child(newFile(), `
      const big = { filler: 'x'.repeat(20_000) };
      let written = 0;
      for (;;) {
        try { await store.append('license-a', 'any', [event(big)]); written++; } catch (error) { await say('error ' + error.code + ' ' + error.message); break; }
      }
      await store.append('license-b', 'any', [event({})]).catch((error) => say('again ' + error.code));
      await say('read ' + ((await store.readStream('license-a')).length === written));`, 'ulimit -f 1000');
    const lines = await writer.until((said) => said.some((line) => line.startsWith('read')));
    await writer.kill();
    expect(lines).toEqual([
      expect.stringMatching(/^failed .*no more writes until a restart/),
      expect.stringMatching(/^error UNAVAILABLE .*no more writes until a restart/),
      'again UNAVAILABLE',
      'read true',
    ]);
  }, 30_000);

  (canFailOneFsync ? it : it.skip)('does not ask again after an fsync that failed: the disk may have forgotten what it could not write', async () => {
    const file = newFile();
    const writer = child(file, `
      const answers = [];
      for (let n = 0; n < 400; n++) {
        const one = () => store.append('license-' + n, -1, [event({})]).then(() => 'yes', (error) => error.code);
        answers.push(...await Promise.all([one(), new Promise(setImmediate).then(one), new Promise((resolve) => setTimeout(resolve)).then(one)]));
      }
      const first = answers.indexOf('UNAVAILABLE');
      await say('failed at first ' + (first > 0) + ', for good ' + answers.slice(first).every((answer) => answer === 'UNAVAILABLE'));`,
    ':', 'strace -f -o /dev/null -e trace=fsync,fdatasync -e inject=fsync,fdatasync:error=EIO:when=60');
    const lines = await writer.until((said) => said.some((line) => line.startsWith('failed at')));
    await writer.kill();
    expect(lines.at(-1)).toBe('failed at first true, for good true');
  }, 30_000);

  (canFailOneFsync ? it : it.skip)('writes on after a disk that was full: nothing of that commit is there, and nobody is told to restart', async () => {
    const file = newFile();
    const writer = child(file, `
      const answers = [];
      for (let n = 0, revision = -1; n < 60; n++) {
        const answer = await store.append('license-a', revision, [event({}), event({})]).then((appended) => (revision = appended.revision, 'yes'), (error) => error.code);
        answers.push(answer);
      }
      await say('refused ' + answers.filter((answer) => answer !== 'yes') + ', stored ' + (await store.readStream('license-a')).length);`,
    ':', 'strace -f -o /dev/null -e trace=pwrite64 -e inject=pwrite64:error=ENOSPC:when=60');
    const lines = await writer.until((said) => said.some((line) => line.startsWith('refused')));
    await writer.kill();
    expect(lines).toEqual(['refused UNAVAILABLE, stored 118']);
  }, 30_000);
});
