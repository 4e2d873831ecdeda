import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, jest } from '@jest/globals';
import { LicenseDenials, ListDenials } from '@keyledger/contracts';
import { Denials, License, type AbuseRule, type LicenseCommand, type LicenseEvent, type LicenseState } from '@keyledger/domain';
import { EventStores, SqliteEventStores } from '@keyledger/event-store';
import { addDays, addSeconds, derivedId, newCommandId, refuse, runIn, systemContext, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { StateDatabases, type Database } from '@keyledger/read-models';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { activate, assign, issue, laptop, licenseKey, scenarios, type Story } from '@keyledger/testing';
import { DenialQueries } from './abuse.handlers.ts';
import { BindCommand } from './appliance.handlers.ts';
import { ActivateCommand } from './license.handlers.ts';
import { AbuseStreams, apartTables, Sightings, sightingsTable } from './sightings.ts';

const start = '2026-11-21T12:00:10.000Z';
const { story, stateOf } = scenarios(License, start);
const sold = story(issue({ terms: { activationLimit: 3 } }), assign(), activate(laptop));
const perHour: AbuseRule = { pattern: 'activationsPerHour', limit: 2, action: 'alert' };

onEveryDialect('Who asks for seats', ({ open, dialect }) => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-sightings-'));
  let events: SqliteEventStores;
  let keyrings: Keyrings;
  let database: Database;
  beforeAll(async () => {
    events = await SqliteEventStores.open({ staging: join(folder, 'events.db') });
    keyrings = new Keyrings([['staging', await Keyring.open({ masterKey: new Uint8Array(32), environment: 'staging', dataKeys: new MemoryDataKeys() })]]);
    database = await open({ migrations: [sightingsTable, apartTables], kind: 'state' });
  });
  afterAll(async () => {
    await events.close();
    rmSync(folder, { recursive: true });
  });

  /** A license of its own, with what has been told of it; the others' rows are in the same table. */
  class World {
    now: Instant = start;
    readonly licenseId: LicenseId = derivedId('lic', newCommandId(), start);
    readonly logged: string[] = [];
    history: Story<LicenseEvent> = sold;
    unreadable = false;
    broken: Error | undefined;
    /** So often is decided what is not stored. */
    lostRaces = 0;
    /** Runs while a batch is written. */
    meanwhile: () => void = () => undefined;
    readonly licenses = {
      load: async <T>(id: LicenseId, view: (state: LicenseState) => T) => {
        if (this.unreadable) throw new Error('no such event');
        if (id !== this.licenseId) throw refuse('LICENSE_NOT_FOUND');
        return view(stateOf(this.history));
      },
      run: async (_: LicenseId, command: LicenseCommand, view?: (state: LicenseState, revision: number, events: readonly LicenseEvent[]) => unknown) => {
        const said = License.decide(stateOf(this.history), command, this.now);
        for (let lost = this.lostRaces; lost > 0; lost--) view?.(stateOf(story(this.history, command)), this.history.happened.length - 1 - lost, said);
        this.history = story(this.history, command);
        return view?.(stateOf(this.history), this.history.happened.length - 1, said);
      },
    };
    readonly #databases = new StateDatabases([['staging', {
      run: (...asked: Parameters<Database['run']>) => database.run(...asked),
      batch: async (...asked: Parameters<Database['batch']>) => {
        this.meanwhile();
        if (this.broken) throw this.broken;
        return database.batch(...asked);
      },
    } as Database]]);
    readonly streams = new AbuseStreams(new EventStores(events.entries()), keyrings);
    readonly sightings = new Sightings(this.#databases, keyrings, this.licenses as never, this.streams, { now: () => this.now }, { warn: (_: unknown, text: string) => this.logged.push(text) } as never);

    in<T>(work: () => T): T {
      return runIn(systemContext('staging', this.now), work);
    }

    refused(...machines: readonly string[]): void {
      this.in(() => machines.forEach((machine) => this.sightings.refused(this.licenseId, machine)));
    }

    took(...revisions: readonly number[]): void {
      this.in(() => revisions.forEach((revision) => this.sightings.took(this.licenseId, { machine: `m${revision}`, address: 'a', revision })));
    }

    rules(...rules: readonly AbuseRule[]) {
      return this.in(() => this.streams.rules.run('staging', { type: 'Set', rules }));
    }

    /** What has been told of refused seats. */
    async told() {
      const page = await events.of('staging').readStream(`${Denials.category}-${this.licenseId}`);
      return page.map(({ data: { denials, machines, from, until } }) => ({ denials, machines, from, until }));
    }

    suspected() {
      return this.history.happened.map(({ event }) => event).filter((event) => event.type === 'AbuseSuspected');
    }

    denials(query: LicenseDenials | ListDenials = Object.assign(new LicenseDenials(), { licenseId: this.licenseId })) {
      return this.in(() => new DenialQueries(this.#databases, this.sightings, this.licenses as never).execute(query)) as Promise<{ data: { denials: number; machines: number }[] }>;
    }

    async rows() {
      return Number((await database.run<{ n: number }>('select count(*) as n from authority_refusals where license_id = ?', [this.licenseId])).rows[0]?.n);
    }
  }

  it('and is refused is told of at once, and then of all others when the hour is over, though nobody asks any more', async () => {
    const all = new World();
    all.refused('one', 'two', 'one');
    await all.sightings.write();
    const first = { denials: 3, machines: 2, from: start, until: start };
    expect(await all.told()).toEqual([first]);
    all.now = addSeconds(start, 20);
    all.refused('two', 'two');
    await all.sightings.write();
    all.now = addSeconds(start, 1_800);
    all.refused('three');
    await all.sightings.write();
    all.now = addSeconds(start, 3_599);
    await all.sightings.lookAgain();
    expect(await all.told()).toEqual([first]);
    all.now = addSeconds(start, 3_600);
    await all.sightings.lookAgain();
    const second = { denials: 3, machines: 2, from: start, until: all.now };
    expect(await all.told()).toEqual([first, second]);
    all.now = addSeconds(start, 9_000);
    await all.sightings.lookAgain();
    expect(await all.told()).toHaveLength(2);
    all.refused('one');
    await all.sightings.write();
    expect((await all.told())[2]).toEqual({ denials: 1, machines: 1, from: all.now, until: all.now });
    expect((await all.denials()).data).toEqual([{ day: '2026-11-21', denials: 7, machines: 3, retries: 4 }]);
  });

  it('is written down though others ask all the time', async () => {
    const all = new World();
    all.meanwhile = () => all.refused('another');
    all.refused('one');
    await all.sightings.write();
    all.meanwhile = () => undefined;
    expect((await all.denials()).data).toMatchObject([{ machines: 2 }]);
  });

  it('is kept for the next time where it cannot be written, and counted once', async () => {
    const all = new World();
    all.broken = refuse('UNAVAILABLE');
    all.refused('one', 'two');
    await all.sightings.write();
    expect([await all.told(), all.logged]).toEqual([[], ['requests for seats could not be recorded; it will be tried again']]);
    all.broken = undefined;
    all.refused('one');
    await all.sightings.write();
    expect(await all.told()).toMatchObject([{ denials: 3, machines: 2 }]);
  });

  it('is looked at later where the rules cannot look at the license, and counted once', async () => {
    const all = new World();
    all.unreadable = true;
    all.refused('one');
    await all.sightings.write();
    expect(all.logged).toEqual(['requests for seats are recorded, but the abuse rules could not be applied; it will be tried again']);
    all.unreadable = false;
    await all.sightings.lookAgain();
    expect(await all.told()).toMatchObject([{ denials: 1 }]);
  });

  it('is forgotten where the license has been erased meanwhile', async () => {
    const all = new World();
    all.refused('one');
    all.meanwhile = () => Object.assign(all.licenses, { load: () => Promise.reject(refuse('LICENSE_NOT_FOUND')) });
    await all.sightings.write();
    expect([await all.rows(), all.logged]).toEqual([0, []]);
  });

  it('with machines that are made up is counted, and not told apart for ever', async () => {
    const all = new World();
    all.refused(...Array.from({ length: 800 }, (_, n) => `made up ${n}`));
    await all.sightings.write();
    all.now = addSeconds(start, 60);
    all.refused(...Array.from({ length: 800 }, (_, n) => `more ${n}`), 'made up 7');
    await all.sightings.write();
    expect(await all.rows()).toBe(501);
    expect((await all.denials()).data).toMatchObject([{ denials: 1_601, machines: 500 }]);
    all.now = addSeconds(start, 3_600);
    all.refused('more 1');
    await all.sightings.write();
    expect((await all.denials()).data).toMatchObject([{ denials: 1_602, machines: 501 }]);
  });

  it('is a number of each day when that is long over', async () => {
    const all = new World();
    all.refused('one', 'two', 'one');
    all.now = addSeconds(start, 3_600);
    all.refused('one', 'three');
    await all.sightings.write();
    all.now = addDays(start, 1);
    all.refused('one');
    await all.sightings.write();
    all.now = addDays(start, 36);
    all.refused('one');
    await all.sightings.write();
    const whole = () => all.denials(Object.assign(new LicenseDenials(), { licenseId: all.licenseId, from: start }));
    const before = (await whole()).data;
    expect(before).toMatchObject([{ denials: 5, machines: 3 }, { denials: 1, machines: 1 }, { denials: 1, machines: 1 }]);
    const rows = await all.rows();
    await all.sightings.lookAgain();
    expect([rows, await all.rows(), (await whole()).data]).toEqual([6, 3, before]);
    const { data } = await all.denials(Object.assign(new ListDenials(), { from: start, limit: 100 })) as unknown as { data: { licenseId: string; denials: number }[] };
    expect(data.find(({ licenseId }) => licenseId === all.licenseId)).toMatchObject({ denials: 7, lastAt: all.now });
  });

  it('is cleared away piece by piece: no transaction takes longer than others can wait', async () => {
    const all = new World();
    const many = (n: number) => `with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < ${n})`;
    const at = (days: number, hour = '00') => `${addDays(start, -days).slice(0, 10)}T${hour}:00:00.000Z`;
    await database.run(`insert into authority_activations (license_id, revision, at, machine, address) ${many(5_000)} select 'lic_many', n, ?, '', '' from numbers`, [at(3)]);
    const refused = (licenses: string, time: string) => database.run(`insert into authority_refusals (license_id, hour, machine, first_at, last_at, count, told, machines)
      ${many(5_000)} select ${licenses}, cast(? as text), 'm' || n, cast(? as text), cast(? as text), 2, 2, 0 from numbers`, [time, time, time]);
    for (const [licenses, time] of [["'lic_many'", at(400)], ["'lic_many ' || (n / 10)", at(37, '09')], ["'lic_many ' || (n / 10)", at(37, '23')], ["'lic_many'", at(36)]] as const) await refused(licenses, time);
    const changed: number[] = [];
    const { run, batch } = database;
    const spies = [
      jest.spyOn(database, 'run').mockImplementation(async (...asked: Parameters<typeof run>) => {
        const answer = await run.apply(database, asked);
        if (asked[0].startsWith('delete')) changed.push(answer.changes);
        return answer as never;
      }),
      jest.spyOn(database, 'batch').mockImplementation(async (asked) => {
        const answers = await batch.call(database, asked);
        changed.push(...asked.flatMap(({ sql }, n) => (sql.startsWith('delete') ? [answers[n]?.changes ?? 0] : [])));
        return answers;
      }),
    ];
    await all.sightings.lookAgain();
    for (const spy of spies) spy.mockRestore();
    expect(changed.reduce((sum, count) => sum + count, 0)).toBe(25_000);
    // A day of one license is never taken apart.
    expect(changed.filter((count) => count > 2_020)).toEqual([5_000]);
    const { rows } = await database.run("select hour, count(*) as licenses, sum(count) as n, min(machines) as least, max(machines) as most from authority_refusals where license_id like 'lic_many%' group by hour order by hour");
    expect(rows.map((row) => Object.values(row).map(Number).slice(1))).toEqual([[501, 20_000, 1, 10], [1, 10_000, 5_000, 5_000]]);
    expect((await database.run("select 1 from authority_activations where license_id = 'lic_many'")).rows).toEqual([]);
  });

  it('with a key that nobody has is counted by the hour, and by the day when that is long over', async () => {
    const all = new World();
    const guessed = (...addresses: readonly string[]) => all.in(() => addresses.forEach((address) => all.sightings.refused('', address)));
    const unknown = async () => ((await all.denials(Object.assign(new ListDenials(), { from: start }))) as unknown as { unknownKeys: { requests: number; addresses: number; hours: readonly object[] } }).unknownKeys;
    expect(await unknown()).toEqual({ requests: 0, addresses: 0, hours: [] });
    guessed('one', 'two', 'one');
    all.now = addSeconds(start, 2 * 3_600);
    guessed('one');
    const [noon, two] = ['2026-11-21T12:00:00.000Z', '2026-11-21T14:00:00.000Z'];
    expect(await unknown()).toEqual({
      requests: 4, addresses: 2, hours: [{ from: noon, to: addSeconds(noon, 3_600), requests: 3, addresses: 2 }, { from: two, to: addSeconds(two, 3_600), requests: 1, addresses: 1 }],
    });
    all.now = addDays(start, 36);
    await all.sightings.lookAgain();
    const day = '2026-11-21T00:00:00.000Z';
    expect((await unknown()).hours).toEqual([{ from: day, to: addDays(day, 1), requests: 4, addresses: 2 }]);
  });

  it('and takes them is suspected, however many are refused with made-up machines meanwhile', async () => {
    const all = new World();
    await all.rules(perHour);
    all.took(10, 11);
    await all.sightings.write();
    for (let hour = 0; hour < 12; hour++) {
      all.now = addSeconds(start, hour * 240);
      all.refused(...Array.from({ length: 500 }, (_, n) => `${hour} ${n}`));
    }
    all.took(12);
    await all.sightings.write();
    expect(all.suspected()).toMatchObject([{ observed: 3, evidence: [10, 11, 12] }]);
  });

  it('and takes them is suspected of as many as a rule allows, and one', async () => {
    const all = new World();
    await all.rules({ ...perHour, limit: 5_200 });
    all.took(...Array.from({ length: 5_200 }, (_, n) => n));
    await all.sightings.write();
    expect(all.suspected()).toEqual([]);
    all.took(5_200);
    await all.sightings.write();
    expect(all.suspected()).toMatchObject([{ observed: 5_201 }]);
  });

  it('and takes them is suspected once more of all that came after, though it was in the same minute', async () => {
    const all = new World();
    await all.rules(perHour);
    all.took(10, 11, 12);
    await all.sightings.write();
    all.took(13, 14);
    await all.sightings.write();
    expect(all.suspected()).toHaveLength(1);
    all.now = addSeconds(start, 600);
    all.took(15);
    await all.sightings.write();
    expect(all.suspected()).toMatchObject([{ evidence: [10, 11, 12] }, { observed: 3, evidence: [13, 14, 15] }]);
  });

  it('with an appliance is one of them', async () => {
    const all = new World();
    await all.rules({ pattern: 'machinesPerDay', limit: 1, action: 'alert' });
    const bind = new BindCommand(all.licenses as never, all.sightings);
    const asked = (fingerprint: string) => all.in(async () => bind.execute({ licenseId: all.licenseId, fingerprint, address: '198.51.100.7' } as never));
    await asked('box 1');
    await asked('box 2');
    await expect(asked('box 3')).rejects.toMatchObject({ code: 'FINGERPRINT_MISMATCH' });
    await all.sightings.write();
    expect(all.suspected()).toMatchObject([{ pattern: 'machinesPerDay', observed: 2 }]);
    expect(await all.told()).toMatchObject([{ denials: 1, machines: 1 }]);
    await all.rules();
  });

  it('and gets one is seen once, as it is stored, though it was decided more often', async () => {
    const all = new World();
    await all.rules({ ...perHour, limit: 1_000 });
    all.lostRaces = 2;
    const activate = new ActivateCommand(all.licenses as never, { hashOf: () => licenseKey().hash, find: async () => all.licenseId } as never, { statementOf: () => undefined } as never, { complete: (view: unknown) => view } as never, all.sightings, {} as never);
    await all.in(() => activate.execute({ licenseKey: licenseKey().value, fingerprint: 'one' } as never));
    await all.in(() => new BindCommand(all.licenses as never, all.sightings).execute({ licenseId: all.licenseId, fingerprint: 'two' } as never));
    await all.sightings.write();
    const { rows } = await database.run<{ revision: number }>('select revision from authority_activations where license_id = ? order by revision', [all.licenseId]);
    const happened = all.history.happened.flatMap(({ event }, revision) => (event.type === 'InstanceActivated' ? [revision] : []));
    expect(rows.map(({ revision }) => Number(revision))).toEqual(happened.slice(1));
    await all.rules();
  });

  it('is in the new tables what was in the old one, and nothing of it is told again', async () => {
    const old = await open({ migrations: [sightingsTable], kind: 'state' });
    const row = (kind: string, machine: string, address: string, count: number) => old.run('insert into authority_sightings values (?, ?, ?, ?, ?, ?, ?)', ['lic_1', '2026-11-21T12:00:00.000Z', kind, machine, address, count, 5]);
    await row('denied', 'm1', 'a1', 2);
    await row('denied', 'm1', 'a2', 1);
    await row('activated', 'm2', 'a1', 1);
    await apartTables.up({ dialect, run: async (text) => void await old.run(text) });
    const { rows } = await old.run('select machine, count, told from authority_refusals');
    expect(rows.map(({ machine, count, told }) => [machine, Number(count), Number(told)])).toEqual([['m1', 3, 3]]);
    expect((await old.run('select license_id, machine, address from authority_activations')).rows).toEqual([{ license_id: 'lic_1', machine: 'm2', address: 'a1' }]);
  });
});
