import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, jest } from '@jest/globals';
import {
  DueUsage, DueUsageBacklog, EvaluateQuotas, ExceedQuota, ExplainUsage, ReadMeters, RecordUsage, ReportUsage, ResolveKey, RestoreQuota, UsageSeries, type UsageRecord,
} from '@keyledger/contracts';
import { HOLD_MS, issued, License, normaliseKey, type LicenseCommand, type TermsInput } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { addDays, Clock, derivedId, newCommandId, refuse, runIn, systemContext, type ActivationId, type IdPrefix, type Instant, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { handlerOf, InProcessTransport, type Fields, type Message, type MessageType, type ResultOf } from '@keyledger/messaging';
import { openHost } from '@keyledger/process';
import { StateDatabases } from '@keyledger/read-models';
import { describeWith } from '@keyledger/servers/contract';
import { openStores } from '@keyledger/stores';
import fc from 'fast-check';
import { UsageMeteringModule, usageSchema } from './index.ts';
import { UsageLedger } from './ledger.ts';
import { UsageReactions } from './reactions.ts';
import { Meters } from './usage.queries.ts';

const environment = 'staging';
const meter = 'max_dp_cores';

/** The metering on stores of its own, and beside it as much of the license-authority as it asks. What time it is, the test says. */
async function start(at: { readonly dataDir: string; readonly databaseUrl?: string | undefined }) {
  const transport = new InProcessTransport();
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, transport);
  const stores = await openStores({ ...at, databaseUrl: at.databaseUrl, masterKey: { value: undefined, file: undefined }, eventStoreUrl: undefined, connections: 2 }, host, [usageSchema]);
  let now: Instant = '2026-03-12T08:00:00.000Z';
  const clock: Clock = { now: () => now };
  const app = await host.start('usage-metering', UsageMeteringModule.with([...host.providers, ...stores.providers, { provide: Clock, useValue: clock }]));
  const licenses = new Aggregates(License, app.get(EventStores), app.get(Keyrings));
  const inContext = <T>(work: () => T): T => runIn(systemContext(environment, now), work);
  const keys = new Map<string, LicenseId>();
  let isThere = true;
  let meanwhile: () => Promise<unknown> = async () => undefined;
  const serve = <M extends Message>(type: MessageType<M>, answer: (message: M) => unknown) =>
    transport.serve(type.subject, 'authority', handlerOf(type, answer as (message: M) => ResultOf<M>, { clock, onError: () => undefined }));
  const decide = async (command: ExceedQuota | RestoreQuota) => {
    if (!isThere) throw refuse('UNAVAILABLE');
    await meanwhile();
    return licenses.run(command.licenseId, command, (_state, _revision, events) => ({ events: events.map(({ type }) => type) }));
  };
  await serve(ResolveKey, ({ keyHash }) => ({ licenseId: keys.get(keyHash) ?? null, retired: false }));
  await serve(ExceedQuota, decide);
  await serve(RestoreQuota, decide);
  const hashOf = (key: string) => inContext(() => app.get(Keyrings).here().keyHash(normaliseKey(key)));
  const ask = <M extends Message>(type: MessageType<M>, fields: Fields<M>): Promise<ResultOf<M>> => inContext(() => host.messages.send(type, fields));
  return {
    ask,
    /** The process's own container. */
    app,
    at: (instant: Instant) => void (now = instant),
    authorityIs: (there: boolean) => void (isThere = there),
    /** What happens while a license decides about its quota, the next time. */
    meanwhile: (work: () => Promise<unknown>) => void (meanwhile = () => (meanwhile = async () => undefined, work())),
    tell: (licenseId: LicenseId, command: LicenseCommand) => inContext(() => licenses.run(licenseId, command)),
    rekey: (licenseId: LicenseId, key: string) => keys.set(hashOf(key), licenseId),
    events: (licenseId: LicenseId) => inContext(async () => (await app.get(EventStores).here().readStream(`license-${licenseId}`)).slice(3).map(({ type, data }) => ({ type, data: data as Record<string, unknown> }))),
    state: (licenseId: LicenseId) => inContext(() => licenses.load(licenseId, (state) => structuredClone(issued(state)))),
    /** What follows of everything up to now is done. */
    reacted: () => inContext(() => app.get(UsageReactions).done()),
    rows: async (licenseId: LicenseId) => {
      const count = async (table: string) => (await app.get(StateDatabases).of(environment).run<{ n: number }>(`select count(*) as n from ${table} where license_id = ?`, [licenseId])).rows[0]?.n;
      return [Number(await count('usage_readings')), Number(await count('usage_days'))];
    },
    /** A license of a customer with so many instances. */
    async sell(terms: TermsInput = { quotas: [{ meter, limit: 8 }] }, instances = 3) {
      const id = <P extends IdPrefix>(prefix: P) => derivedId(prefix, newCommandId(), now);
      const licenseId = id('lic');
      const key = `KEY-${licenseId}`;
      const hash = hashOf(key);
      keys.set(hash, licenseId);
      await inContext(() => licenses.run(licenseId, { type: 'Issue', licenseId, productId: id('prd'), customerId: id('cus'), environment, terms, key: { value: key, hash, prefix: 'KEY' } } as LicenseCommand));
      const seats: ActivationId[] = [];
      for (let n = 0; n < instances; n++) {
        const activationId = id('act');
        await inContext(() => licenses.run(licenseId, { type: 'Activate', activationId, instanceName: `node ${n}`, fingerprint: `fp ${n} ${licenseId}` }));
        seats.push(activationId);
      }
      return { licenseId, key, seats: seats as [ActivationId, ActivationId, ActivationId] };
    },
    /** As the sweeper does: what is due, until nothing is. */
    async evaluate(until = now, dryRun = false) {
      const transitions: Record<string, number> = {};
      let examined = 0;
      for (let after: { id: string; dueAt: Instant } | undefined; ;) {
        const { data } = await ask(DueUsage, { until, after, limit: 3 });
        after = data.at(-1);
        if (!after) return { examined, transitions };
        examined += data.length;
        for (const [type, n] of Object.entries(await ask(EvaluateQuotas, { licenseIds: data.map(({ id }) => id), until, dryRun }))) transitions[type] = (transitions[type] ?? 0) + n;
      }
    },
    async close() {
      await host.close();
      await stores.close();
    },
  };
}
type Metering = Awaited<ReturnType<typeof start>>;

let made = 0;
const record = (value: number, at: Instant, fields: Partial<UsageRecord> = {}): UsageRecord => ({ id: `record ${made++}`, meter, value, at, ...fields });
const ever = { from: '2026-03-12T00:00:00.000Z', to: '2026-03-13T00:00:00.000Z' };

describe('Usage metering (SQLite)', () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'usage-'));
  suite(() => ({ dataDir }));
  afterAll(() => rmSync(dataDir, { recursive: true }));

  it('finds what is due through an index, whatever else there is', async () => {
    const metering = await start({ dataDir: join(dataDir, 'another') });
    const { rows } = await metering.app.get(StateDatabases).of(environment).run<{ detail: string }>(
      'explain query plan select distinct due_at, license_id as id from usage_days where due_at is not null and due_at <= ? and (due_at, license_id) > (?, ?) order by due_at, license_id limit 10', [1, 0, '']);
    await metering.close();
    expect(rows.map(({ detail }) => detail)).toEqual([expect.stringMatching(/^SEARCH usage_days USING COVERING INDEX usage_days_due_at/)]);
  });
});
describeWith('postgres', 'Usage metering', (server) => {
  const dataDir = mkdtempSync(join(tmpdir(), 'usage-'));
  suite(() => ({ dataDir, databaseUrl: server().url }));
  afterAll(() => rmSync(dataDir, { recursive: true }));

  it('counts once what several processes are told at the same time', async () => {
    const both = [await start({ dataDir, databaseUrl: server().url }), await start({ dataDir, databaseUrl: server().url })] as const;
    const { licenseId, seats: [node] } = await both[0].sell();
    const records = Array.from({ length: 40 }, (_, n) => record(1, `2026-03-12T07:${String(n + 10)}:00.000Z`));
    const batches = Array.from({ length: 60 }, (_, n) => [both[n % 2] as Metering, [...records.slice(n % 30), ...records.slice(0, n % 30)].slice(0, 20)] as const);
    const answers = await Promise.all(batches.map(([metering, batch]) => metering.ask(RecordUsage, { licenseId, instanceId: node, records: batch })));
    expect(answers.reduce((sum, { accepted }) => sum + accepted, 0)).toBe(40);
    expect(answers.reduce((sum, { duplicates }) => sum + duplicates, 0)).toBe(60 * 20 - 40);
    expect((await both[1].ask(UsageSeries, { licenseId, meter, ...ever })).data[0]?.sum).toBe(40);
    for (const metering of both) await metering.close();
  });

  it('does not lose a batch to another that the database will not have', async () => {
    const metering = await start({ dataDir, databaseUrl: server().url });
    const { licenseId, seats: [node] } = await metering.sell();
    const send = (records: UsageRecord[]) => metering.ask(RecordUsage, { licenseId, instanceId: node, records });
    const answers = await Promise.allSettled([send([record(1, ever.from)]), send([record(1, ever.from, { id: 'a\0b' })]), send([record(1, ever.from)])]);
    expect(answers.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(await metering.rows(licenseId)).toEqual([2, 1]);
    await metering.close();
  });
}, { durable: true });

function suite(place: () => Parameters<typeof start>[0]) {
  let metering: Metering;
  beforeAll(async () => {
    metering = await start(place());
  }, 60_000);
  afterAll(() => metering?.close());
  const report = (licenseId: LicenseId, instanceId: ActivationId, ...records: UsageRecord[]) => metering.ask(RecordUsage, { licenseId, instanceId, records });
  const code = (promise: Promise<unknown>) => promise.then(() => 'no refusal', (error: { code: string }) => error.code);

  describe('takes readings', () => {
    it('and counts each once, whatever is said of it later', async () => {
      metering.at('2026-03-12T08:00:00.000Z');
      const { licenseId, key, seats: [first, second] } = await metering.sell();
      const records = [record(3, '2026-03-12T07:00:00.000Z'), record(4, '2026-03-12T07:30:00.000Z')];
      expect(await metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records })).toEqual({ accepted: 2, duplicates: 0, quotas: [{ meter, limit: 8, state: 'normal', lastPeak: null, graceEndsAt: null }] });
      expect(await metering.ask(ReportUsage, { licenseKey: key.toLowerCase(), instanceId: second, records: [...records, ...records].map((one) => ({ ...one, value: 100 })) })).toMatchObject({ accepted: 0, duplicates: 4 });
      expect(await report(licenseId, first, record(1, '2026-03-12T07:40:00.000Z', { id: 'twice' }), record(2, '2026-03-12T07:41:00.000Z', { id: 'twice' }))).toMatchObject({ accepted: 1, duplicates: 1 });
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toEqual([{ ...ever, peak: 4, sum: 8 }]);
    });

    it('of one license apart from another’s with the same ids', async () => {
      const [one, other] = [await metering.sell(), await metering.sell()];
      const records = [record(5, '2026-03-12T07:00:00.000Z')];
      expect(await report(one.licenseId, one.seats[0], ...records)).toMatchObject({ accepted: 1 });
      expect(await report(other.licenseId, other.seats[0], ...records)).toMatchObject({ accepted: 1 });
    });

    it('from instances of the license, as long as they had their seat', async () => {
      metering.at('2026-03-12T08:00:00.000Z');
      const { licenseId, key, seats: [first, second] } = await metering.sell();
      const stranger = (await metering.sell()).seats[0];
      await metering.tell(licenseId, { type: 'Deactivate', activationId: second, by: 'client' });
      metering.at('2026-03-12T09:00:00.000Z');
      expect(await code(metering.ask(ReportUsage, { licenseKey: 'KEY-unknown', instanceId: first, records: [record(1, ever.from)] }))).toBe('LICENSE_NOT_FOUND');
      for (const instanceId of [stranger, 'text']) expect(await code(metering.ask(ReportUsage, { licenseKey: key, instanceId, records: [record(1, ever.from)] }))).toBe('INSTANCE_NOT_FOUND');
      expect(await code(metering.ask(ReportUsage, { licenseKey: key, instanceId: second, records: [record(1, '2026-03-12T08:00:00.000Z')] }))).toBe('INSTANCE_NOT_FOUND');
      expect(await report(licenseId, second, record(1, '2026-03-12T07:59:59.999Z'))).toMatchObject({ accepted: 1 });
    });

    it('from an instance that has given up its seat, but for those that it names', async () => {
      metering.at('2026-03-12T08:00:00.000Z');
      const { licenseId, key, seats: [first] } = await metering.sell();
      await metering.tell(licenseId, { type: 'Deactivate', activationId: first, by: 'client' });
      metering.at('2026-03-12T09:00:00.000Z');
      const records = ['07:58', '08:00', '07:59', '08:01'].map((time) => record(1, `2026-03-12T${time}:00.000Z`));
      await expect(metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records })).rejects.toMatchObject({ code: 'INSTANCE_NOT_FOUND', members: { errors: [{ pointer: '/records/1/at' }, { pointer: '/records/3/at' }] } });
      expect(await metering.rows(licenseId)).toEqual([0, 0]);
      expect(await metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records: [records[0], records[2]] as UsageRecord[] })).toMatchObject({ accepted: 2 });
    });

    it('under the key of now, and knows one that was', async () => {
      const { licenseId, key, seats: [first] } = await metering.sell();
      await metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records: [record(1, ever.from)] });
      await metering.tell(licenseId, { type: 'RegenerateKey', key: { value: 'new', hash: 'another', prefix: 'new' } });
      await expect(metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records: [record(1, ever.from)] })).rejects.toMatchObject({ code: 'LICENSE_NOT_FOUND', members: { retired: true } });
    });

    it('all of a batch or none of it', async () => {
      metering.at('2026-03-12T08:00:00.000Z');
      const { licenseId, key, seats: [first] } = await metering.sell();
      const records = [record(1, '2026-03-12T08:04:00.000Z'), record(1, '2026-03-12T08:05:00.001Z')];
      await expect(metering.ask(ReportUsage, { licenseKey: key, instanceId: first, records })).rejects.toMatchObject({ code: 'USAGE_OUT_OF_RANGE', members: { errors: [{ pointer: '/records/1/at' }] } });
      expect(await metering.rows(licenseId)).toEqual([0, 0]);
    });

    it('that came along with a heartbeat as far as they count, and names the others', async () => {
      metering.at('2026-03-12T08:00:00.000Z');
      const { licenseId, seats: [first, second] } = await metering.sell();
      await metering.tell(licenseId, { type: 'Deactivate', activationId: second, by: 'client' });
      metering.at('2026-03-12T09:00:00.000Z');
      const [before, after, ahead, old] = [record(3, '2026-03-12T07:59:59.999Z'), record(1, '2026-03-12T08:00:00.000Z'), record(1, '2026-03-12T09:05:00.001Z'), record(1, '2025-02-01T00:00:00.000Z')];
      expect(await report(licenseId, second, before, after, ahead, old)).toMatchObject({ accepted: 1, duplicates: 0, refused: [after.id, ahead.id, old.id] });
      expect(await report(licenseId, first, before, after)).toMatchObject({ accepted: 1, duplicates: 1, refused: [] });
      expect(await report(licenseId, first, ahead)).toMatchObject({ accepted: 0, duplicates: 0, refused: [ahead.id] });
      expect((await metering.rows(licenseId))[0]).toBe(2);
    });

    it('and keeps them', async () => {
      const { licenseId, seats: [first] } = await metering.sell();
      await report(licenseId, first, record(7, '2026-03-12T07:00:00.000Z'));
      await metering.close();
      metering = await start(place());
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toMatchObject([{ peak: 7, sum: 7 }]);
    });
  });

  it('tells what was at any hour, in whatever order, batches and repetitions it has heard of it', async () => {
    metering.at('2026-03-13T00:00:00.000Z');
    const minute = fc.integer({ min: -90, max: 24 * 60 - 1 });
    const reading = fc.record({ seat: fc.nat({ max: 2 }), minute, value: fc.integer({ min: 0, max: 80 }).map((n) => n / 8), batch: fc.nat({ max: 5 }), again: fc.nat({ max: 5 }) });
    const start0 = Date.parse(ever.from);
    await fc.assert(fc.asyncProperty(fc.array(reading, { minLength: 1, maxLength: 40 }), async (readings) => {
      const { licenseId, seats } = await metering.sell();
      const known = readings.map((one, n) => ({ ...one, at: start0 + one.minute * 60_000, id: `r${n}` }));
      const batches = [...Map.groupBy([...known, ...known.filter(({ again }) => again < 3).map((one) => ({ ...one, batch: one.again + 6 }))], ({ batch, seat }) => `${batch} ${seat}`).values()];
      const answers = await Promise.all(batches.map((batch) => report(licenseId, seats[batch[0]?.seat as 0], ...batch.map(({ id, value, at }) => ({ id, meter, value, at: new Date(at).toISOString() })))));
      expect(answers.reduce((sum, { accepted }) => sum + accepted, 0)).toBe(known.length);

      const { data } = await metering.ask(UsageSeries, { licenseId, meter, ...ever, bucket: 'hour' });
      const totalAt = (moment: number) => [0, 1, 2].reduce((sum, seat) => {
        const past = known.filter((one) => one.seat === seat && one.at <= moment);
        const last = Math.max(...past.map(({ at }) => at));
        return sum + (last + HOLD_MS > moment ? Math.max(0, ...past.filter(({ at }) => at === last).map(({ value }) => value)) : 0);
      }, 0);
      const expected = Array.from({ length: 24 }, (_, hour) => {
        const [from, to] = [start0 + hour * 3_600_000, start0 + (hour + 1) * 3_600_000];
        const within = known.filter(({ at }) => at >= from && at < to);
        return { from: new Date(from).toISOString(), to: new Date(to).toISOString(), peak: Math.max(totalAt(from), ...within.map(({ at }) => totalAt(at))), sum: within.reduce((sum, { value }) => sum + value, 0) };
      });
      expect(data).toEqual(expected);
      const [day] = (await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data;
      expect(day).toEqual({ ...ever, peak: Math.max(...expected.map(({ peak }) => peak)), sum: expected.reduce((sum, one) => sum + one.sum, 0) });

      const { peak, peakAt, instances } = await metering.ask(ExplainUsage, { licenseId, meter, day: '2026-03-12' });
      expect([peak, peakAt === null ? 0 : totalAt(Date.parse(peakAt)), instances.reduce((sum, { value }) => sum + value, 0)]).toEqual([day?.peak, peak, peak]);
    }), { numRuns: 15 });
  });

  describe('compares a day with the quota', () => {
    const over = async (terms?: TermsInput) => {
      // Nothing is left to be done of other tests.
      await metering.evaluate('2027-01-01T00:00:00.000Z');
      metering.at('2026-03-12T20:00:00.000Z');
      const sold = await metering.sell(terms);
      for (const [n, seat] of sold.seats.entries()) await report(sold.licenseId, seat, record(4 + n, `2026-03-12T1${n}:00:00.000Z`, { id: `first ${n}` }), record(4 + n, `2026-03-12T19:3${n}:00.000Z`, { id: `last ${n}` }));
      return sold;
    };
    const quota = async (licenseId: LicenseId) => (await metering.state(licenseId)).meters.get(meter);

    it('at its end, and not before; a second look finds nothing', async () => {
      const { licenseId, seats } = await over();
      expect(await metering.ask(DueUsageBacklog, { until: '2027-01-01T00:00:00.000Z' })).toEqual({ oldest: '2026-03-13T00:00:00.000Z', count: 1 });
      metering.at('2026-03-12T23:59:59.999Z');
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
      metering.at('2026-03-13T00:00:17.000Z');
      expect(await metering.evaluate(undefined, true)).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await metering.events(licenseId)).toHaveLength(1);
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
      const [, exceeded, ...rest] = await metering.events(licenseId);
      expect([exceeded, rest]).toEqual([{
        type: 'QuotaExceeded',
        data: {
          meter, peak: 15, limit: 8, graceEndsAt: '2026-03-20T00:00:00.000Z',
          readings: { day: '2026-03-12', at: '2026-03-12T19:32:00.000Z', instances: [6, 5, 4].map((value) => ({ instanceId: seats[value - 4], value, id: `last ${value - 4}`, at: `2026-03-12T19:3${value - 4}:00.000Z` })) },
        },
      }, []]);
      expect(await metering.ask(DueUsageBacklog, { until: '2027-01-01T00:00:00.000Z' })).toEqual({ oldest: null, count: 0 });
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toMatchObject([{ peak: 15 }]);
    });

    it('and explains it: who read what, when', async () => {
      const { licenseId, seats } = await over();
      const why = await metering.ask(ExplainUsage, { licenseId, meter, day: '2026-03-12' });
      expect(why).toMatchObject({ kind: 'gauge', peak: 15, peakAt: '2026-03-12T19:32:00.000Z', sum: 30, complete: true });
      expect(why.instances).toEqual([2, 1, 0].map((n) => ({
        instanceId: seats[n], name: `node ${n}`, value: 4 + n, readings: [{ id: `last ${n}`, value: 4 + n, at: `2026-03-12T19:3${n}:00.000Z`, receivedAt: '2026-03-12T20:00:00.000Z' }],
      })));
      expect(await metering.ask(ExplainUsage, { licenseId, meter, day: '2026-03-11' })).toMatchObject({ peak: 0, peakAt: null, instances: [] });
      expect(await code(metering.ask(ExplainUsage, { licenseId, meter, day: '2026-02-30' }))).toBe('VALIDATION_FAILED');
    });

    it('and forgives it at the end of a day with less, not for silence', async () => {
      const { licenseId, seats: [first] } = await over();
      metering.at('2026-03-15T00:00:01.000Z');
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded', graceEndsAt: '2026-03-20T00:00:00.000Z' });
      await report(licenseId, first, record(8, '2026-03-15T00:00:00.000Z'));
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded' });
      metering.at('2026-03-16T00:00:00.000Z');
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaRestored: 1 } });
      expect(await quota(licenseId)).toEqual({ state: 'normal', lastPeak: 8, graceEndsAt: null });
    });

    it('again when late readings change it: an event only if that changes the license', async () => {
      const { licenseId, seats: [first, second] } = await over();
      metering.at('2026-03-13T00:00:00.000Z');
      await metering.evaluate();
      metering.at('2026-03-13T10:00:00.000Z');
      await report(licenseId, second, record(1, '2026-03-12T03:00:00.000Z'));
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await report(licenseId, first, record(0, '2026-03-12T19:31:30.000Z'), record(0, '2026-03-12T19:30:30.000Z'))).toMatchObject({ accepted: 2, quotas: [{ state: 'exceeded', lastPeak: 15 }] });
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toMatchObject([{ peak: 11 }]);
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await quota(licenseId)).toMatchObject({ lastPeak: 11, graceEndsAt: '2026-03-20T00:00:00.000Z' });
      await report(licenseId, second, record(0, '2026-03-12T19:31:30.000Z'));
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaRestored: 1 } });
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toMatchObject([{ peak: 6 }]);
    });

    it('that reported late at once, with a grace from then on', async () => {
      await metering.evaluate('2027-01-01T00:00:00.000Z');
      metering.at('2026-03-13T10:00:00.000Z');
      const { licenseId, seats: [first] } = await metering.sell();
      await report(licenseId, first, record(9, '2026-03-12T12:00:00.000Z'));
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await quota(licenseId)).toMatchObject({ graceEndsAt: '2026-03-20T10:00:00.000Z' });
    });

    it('as of its end, however much later somebody looks', async () => {
      const { licenseId } = await over();
      metering.at('2026-04-30T12:00:00.000Z');
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded', graceEndsAt: '2026-03-20T00:00:00.000Z' });
    });

    it('of a counter, which starts again at nought the next day', async () => {
      const { licenseId, seats } = await over({ quotas: [{ meter, limit: 29, per: 'day' }] });
      metering.at('2026-03-13T00:00:00.000Z');
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect((await metering.events(licenseId)).at(-1)).toMatchObject({
        data: { peak: 30, readings: { from: '2026-03-12', day: '2026-03-12', instances: [12, 10, 8].map((value) => ({ instanceId: seats[value / 2 - 4], value, records: 2 })) } },
      });
      metering.at('2026-03-13T23:59:59.999Z');
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded' });
      metering.at('2026-05-14T00:00:00.000Z');
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaRestored: 1 } });
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
    });

    it.each(['day', 'month'] as const)('of a counter, however late something of an earlier %s is read', async (per) => {
      const { licenseId, seats: [first, second] } = await over({ quotas: [{ meter, limit: 29, per }] });
      await report(licenseId, second, record(1, '2026-03-11T12:00:00.000Z'));
      metering.at('2026-03-13T20:00:00.000Z');
      await report(licenseId, first, record(200, '2026-03-13T12:00:00.000Z'));
      metering.at('2026-03-15T12:00:00.000Z');
      if (per === 'day') await report(licenseId, first, record(200, '2026-03-14T12:00:00.000Z'));
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: expect.any(Number) } });
      await report(licenseId, second, record(0, per === 'day' ? '2026-03-10T12:00:00.000Z' : '2026-02-24T12:00:00.000Z'));
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded' });
      metering.at('2026-05-01T00:00:00.000Z');
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaRestored: 1 } });
    });

    it('of a counter as of no earlier moment than before, though it stayed due', async () => {
      const { licenseId, seats: [first] } = await over({ quotas: [{ meter, limit: 29, per: 'day' }] });
      metering.at('2026-03-14T08:00:00.000Z');
      await report(licenseId, first, record(1, '2026-03-13T12:00:00.000Z'));
      metering.meanwhile(() => report(licenseId, first, record(5, '2026-03-12T19:50:00.000Z')));
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1, QuotaRestored: 1 } });
      expect(await metering.evaluate(undefined, true)).toEqual({ examined: 1, transitions: {} });
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await quota(licenseId)).toMatchObject({ state: 'normal' });
    });

    it.each([['that is lowered', 100], ['that is newly set', undefined]] as const)('%s, though nothing more is read in its month', async (_, limit) => {
      const { licenseId } = await over(limit === undefined ? {} : { quotas: [{ meter, limit, per: 'month' }] });
      metering.at('2026-03-14T10:00:00.000Z');
      await metering.evaluate();
      await metering.tell(licenseId, { type: 'Edit', quotas: [{ meter, limit: 29, per: 'month' }, { meter: 'unread', limit: 0, per: 'month' }] });
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
      metering.at('2026-03-16T08:00:00.000Z');
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: { QuotaExceeded: 1 } });
      expect(await quota(licenseId)).toEqual({ state: 'exceeded', lastPeak: 30, graceEndsAt: '2026-03-22T00:00:00.000Z' });
      expect((await metering.rows(licenseId))[1]).toBe(3);
      await metering.tell(licenseId, { type: 'Edit', quotas: [{ meter, limit: 30, per: 'month' }] });
      expect(await quota(licenseId)).toMatchObject({ state: 'normal' });
      metering.at('2026-03-17T00:00:00.000Z');
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
    });

    it('again, when that was lowered at the last moment, while it was compared', async () => {
      const { licenseId } = await over({ quotas: [{ meter, limit: 29, per: 'month' }] });
      metering.at('2026-03-13T00:00:00.000Z');
      metering.meanwhile(async () => {
        metering.at('2026-03-12T23:59:59.999Z');
        await metering.tell(licenseId, { type: 'Edit', quotas: [{ meter, limit: 28, per: 'month' }] });
        await metering.reacted();
        metering.at('2026-03-13T00:00:00.000Z');
      });
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await metering.evaluate()).toEqual({ examined: 0, transitions: {} });
    });

    it('later, when the authority cannot be asked', async () => {
      const { licenseId } = await over();
      metering.at('2026-03-13T00:00:00.000Z');
      metering.authorityIs(false);
      expect(await code(metering.evaluate())).toBe('UNAVAILABLE');
      metering.authorityIs(true);
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ state: 'exceeded' });
    });

    it('again, when something was read while it was compared', async () => {
      const { licenseId, seats: [first] } = await over();
      metering.at('2026-03-13T00:00:00.000Z');
      metering.meanwhile(() => report(licenseId, first, record(20, '2026-03-12T19:50:00.000Z')));
      await metering.evaluate();
      expect(await quota(licenseId)).toMatchObject({ lastPeak: 15 });
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(await quota(licenseId)).toMatchObject({ lastPeak: 31 });
      expect((await metering.ask(UsageSeries, { licenseId, meter, ...ever })).data).toMatchObject([{ peak: 31 }]);
    });

    it('once, though two look at the same time', async () => {
      const { licenseId } = await over();
      metering.at('2026-03-13T00:00:00.000Z');
      await Promise.all([metering.evaluate(), metering.evaluate(), metering.evaluate()]);
      expect((await metering.events(licenseId)).map(({ type }) => type)).toEqual(['InstanceActivated', 'QuotaExceeded']);
    });

    it('of each meter by itself', async () => {
      const { licenseId, seats: [first] } = await over({ quotas: [{ meter, limit: 8 }, { meter: 'users', limit: 2 }] });
      await report(licenseId, first, record(3, '2026-03-12T12:00:00.000Z', { meter: 'users' }), record(99, '2026-03-12T12:00:00.000Z', { meter: 'unknown' }));
      metering.at('2026-03-13T00:00:00.000Z');
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: { QuotaExceeded: 2 } });
      expect((await metering.state(licenseId)).meters.get('users')).toMatchObject({ state: 'exceeded', lastPeak: 3 });
      expect((await metering.ask(UsageSeries, { licenseId, meter: 'unknown', ...ever })).data).toMatchObject([{ peak: 99 }]);
    });

    it('by the last of very many that come late together', async () => {
      await metering.evaluate('2027-01-01T00:00:00.000Z');
      metering.at('2026-12-31T12:00:00.000Z');
      const { licenseId, seats: [first] } = await metering.sell();
      await report(licenseId, first, ...Array.from({ length: 250 }, (_, n) => record(n === 249 ? 7 : 9, addDays('2026-04-01T12:00:00.000Z', n))));
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await metering.ask(DueUsageBacklog, { until: '2026-12-31T12:00:00.000Z' })).toMatchObject({ count: 0 });
      await report(licenseId, first, record(9, '2026-12-06T13:00:00.000Z'));
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
    });

    it('and does not look at each of the meters that somebody makes up as he goes', async () => {
      await metering.evaluate('2027-01-01T00:00:00.000Z');
      metering.at('2026-03-14T12:00:00.000Z');
      const { licenseId, seats: [first] } = await metering.sell({ quotas: [{ meter, limit: 8 }], features: { export: { limit: 9, per: 'day' } } });
      const made = Array.from({ length: 450 }, (_, n) => [12, 13].map((day) => record(3 * day, `2026-03-${day}T12:00:00.000Z`, { meter: `request ${String(n).padStart(3, '0')}` }))).flat();
      await report(licenseId, first, ...made, record(9, '2026-03-13T12:00:00.000Z'), record(2, '2026-03-13T12:00:00.000Z', { meter: 'export' }));
      const [looks, reads] = [jest.spyOn(metering.app.get(Meters), 'peaks'), jest.spyOn(metering.app.get(UsageLedger), 'daysOfAll')];
      expect(await metering.evaluate()).toMatchObject({ transitions: { QuotaExceeded: 1 } });
      expect(looks.mock.calls.length).toBeLessThan(300);
      expect(await metering.ask(DueUsageBacklog, { until: '2026-03-14T12:00:00.000Z' })).toMatchObject({ count: 0 });
      expect((await report(licenseId, first, record(1, '2026-03-14T12:00:00.000Z'))).quotas).toMatchObject([{ state: 'exceeded', lastPeak: 9 }]);
      expect(await reads.mock.results[0]?.value).toHaveLength(2);
      expect(await metering.ask(ReadMeters, { licenseIds: [licenseId], meters: [meter, 'export'] })).toMatchObject({ [licenseId]: { [meter]: { last: { gauge: 9 } }, export: { month: 2 } } });
      for (const spy of [looks, reads]) spy.mockRestore();

      const peaks = async (name: string) => (await metering.ask(UsageSeries, { licenseId, meter: name, from: ever.from, to: '2026-03-14T00:00:00.000Z' })).data.map(({ peak }) => peak);
      for (const name of ['request 000', 'request 449']) expect(await peaks(name)).toEqual([36, 39]);
      // Whoever has a quota set of one later finds it compared by the last day all the same, not by one that is changed late.
      await metering.tell(licenseId, { type: 'Edit', quotas: ['request 000', 'request 449'].map((name) => ({ meter: name, limit: 39 })) });
      await report(licenseId, first, ...['request 000', 'request 449'].map((name) => record(99, '2026-03-12T14:00:00.000Z', { meter: name })));
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
      expect(await peaks('request 449')).toEqual([99, 39]);
    });

    it('of an instance up to the end of its seat', async () => {
      const { licenseId, seats: [first, second] } = await metering.sell();
      metering.at('2026-03-12T09:00:00.000Z');
      await report(licenseId, first, record(8, '2026-03-12T09:00:00.000Z'));
      metering.at('2026-03-12T09:10:00.000Z');
      await metering.tell(licenseId, { type: 'Deactivate', activationId: first, by: 'client' });
      await report(licenseId, second, record(8, '2026-03-12T09:10:00.000Z'));
      metering.at('2026-03-13T00:00:00.000Z');
      expect(await metering.evaluate()).toEqual({ examined: 1, transitions: {} });
    });
  });

  it('knows what is used of a cap, and what was compared last', async () => {
    metering.at('2026-03-12T20:00:00.000Z');
    const { licenseId, seats: [first] } = await metering.sell({ features: { export: { limit: 10, per: 'day' } } });
    await report(licenseId, first, record(3, '2026-03-12T07:00:00.000Z', { meter: 'export' }), record(0.5, '2026-03-12T08:00:00.000Z', { meter: 'export' }), record(2, '2026-03-01T08:00:00.000Z', { meter: 'export' }));
    expect(await metering.ask(ReadMeters, { licenseIds: [licenseId] })).toEqual({ [licenseId]: { export: { today: 3.5, month: 5.5, last: { gauge: null, day: 0, month: 2 } } } });
    expect(await metering.ask(ExplainUsage, { licenseId, meter: 'export', day: '2026-03-12' })).toMatchObject({ kind: 'counter', sum: 3.5, instances: [{ value: 3.5, readings: [{ value: 3 }, { value: 0.5 }] }] });
    metering.at('2026-03-13T00:00:00.000Z');
    await metering.evaluate();
    expect(await metering.ask(ReadMeters, { licenseIds: [licenseId] })).toEqual({ [licenseId]: { export: { today: 0, month: 5.5, last: { gauge: 3, day: 3.5, month: 5.5 } } } });
    expect((await metering.ask(UsageSeries, { licenseId, meter: 'export', bucket: 'month', from: '2026-02-10T00:00:00.000Z' })).data.map(({ from, sum }) => [from, sum])).toEqual([['2026-02-01T00:00:00.000Z', 0], ['2026-03-01T00:00:00.000Z', 5.5]]);
    expect(await code(metering.ask(UsageSeries, { licenseId, meter, bucket: 'hour', from: '2026-01-01T00:00:00.000Z' }))).toBe('VALIDATION_FAILED');
  });

  it('keeps meters apart, whatever they are called', async () => {
    metering.at('2026-03-12T20:00:00.000Z');
    const named = ['constructor', '__proto__'];
    const { licenseId, seats: [first] } = await metering.sell({ quotas: named.map((name) => ({ meter: name, limit: 8 })) });
    expect(await report(licenseId, first, ...named.map((name) => record(3, '2026-03-12T07:00:00.000Z', { meter: name })))).toMatchObject({ accepted: 2, quotas: [{ lastPeak: null }, { lastPeak: null }] });
    metering.at('2026-03-13T00:00:00.000Z');
    await metering.evaluate();
    const { [licenseId]: read } = await metering.ask(ReadMeters, { licenseIds: [licenseId] });
    expect(Object.entries(read ?? {}).map(([name, { last }]) => [name, last.gauge]).sort()).toEqual([['__proto__', 3], ['constructor', 3]]);
    const very = Array.from({ length: 70_000 }, (_, n) => `made up ${n}`);
    expect(Object.keys((await metering.ask(ReadMeters, { licenseIds: [licenseId], meters: [...very, 'constructor'] }))[licenseId] ?? {})).toEqual(['constructor']);
    expect((await report(licenseId, first, record(1, '2026-03-13T00:00:00.000Z'))).quotas).toMatchObject([{ lastPeak: 3 }, { lastPeak: 3 }]);
    const { licenseId: another } = await metering.sell({});
    for (const name of named) expect(await metering.ask(ExplainUsage, { licenseId: another, meter: name, day: '2026-03-12' })).toMatchObject({ kind: 'gauge', peak: 0 });
  });

  it('forgets a license with very many readings piece by piece: no statement takes longer than the database may', async () => {
    const { licenseId } = await metering.sell();
    const database = metering.app.get(StateDatabases).of(environment);
    await database.run(`insert into usage_readings (license_id, id, instance_id, meter, at, micros, received_at)
      with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 12000) select ?, n || '', 'act', 'm', n, 1, n from numbers`, [licenseId]);
    const changed: number[] = [];
    const { run } = database;
    const spy = jest.spyOn(database, 'run').mockImplementation(async (...statement: Parameters<typeof run>) => {
      const result = await run.apply(database, statement);
      if (statement[0].startsWith('delete')) changed.push(result.changes);
      return result as never;
    });
    await metering.tell(licenseId, { type: 'Erase', reason: 'asked for', force: true, mayEraseActivated: true });
    await metering.reacted();
    spy.mockRestore();
    expect(await metering.rows(licenseId)).toEqual([0, 0]);
    expect(changed.reduce((sum, count) => sum + count, 0)).toBe(12_000);
    expect(Math.max(...changed)).toBe(2_000);
  });

  it('forgets what it knows of a license that is erased, also what arrives after that', async () => {
    metering.at('2026-03-12T08:00:00.000Z');
    const { licenseId, seats: [first] } = await metering.sell();
    await report(licenseId, first, record(9, '2026-03-12T07:00:00.000Z'));
    await metering.tell(licenseId, { type: 'Erase', reason: 'asked for', force: true, mayEraseActivated: true });
    await metering.reacted();
    expect(await metering.rows(licenseId)).toEqual([0, 0]);
    expect(await code(report(licenseId, first, record(9, '2026-03-12T07:00:00.000Z')))).toBe('LICENSE_NOT_FOUND');
    expect(await code(metering.ask(UsageSeries, { licenseId, meter }))).toBe('LICENSE_NOT_FOUND');
    await metering.app.get(StateDatabases).of(environment).run('insert into usage_days (license_id, meter, day, micros, due_at, version) values (?, ?, ?, 0, 1, 1)', [licenseId, meter, '2026-03-12']);
    await metering.evaluate();
    expect(await metering.rows(licenseId)).toEqual([0, 0]);
  });
}
