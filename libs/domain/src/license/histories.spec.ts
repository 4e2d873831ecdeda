import { deepEqual, equal } from 'node:assert/strict';
import { deserialize, serialize } from 'node:v8';
import { describe, expect, it } from '@jest/globals';
import { addDays, addSeconds, Refusal, type ActivationId, type EventOrigin, type Instant } from '@keyledger/kernel';
import { ada, grace, idOf, issue, licenseKey, suspectAbuse } from '@keyledger/testing';
import fc from 'fast-check';
import { nextDue } from './due.ts';
import type { LicenseEvent } from './events.ts';
import { License, type LicenseCommand } from './license.ts';
import { allowedActions, directiveKinds, holdCauses, isLive, issued, statusOf, type LicenseState } from './state.ts';
import type { LicenseStatus } from './transitions.ts';
import { changesAt, verdictOf, verdictWarnings } from './verdict.ts';
import { clientLicenseView, licenseView } from './view.ts';

/** Whatever is asked, in whatever order, at whatever time. */

const start = '2026-01-31T00:00:00.000Z';
const limits = fc.constantFrom(-1, 1, 1, 2, 3);
const activationIds = Array.from({ length: 12 }, (_, n) => idOf('act', n + 1));
const activationId = fc.constantFrom(...activationIds);
const fingerprints = ['fp-1', 'fp-2', 'fp-3', 'fp-4'];
const fingerprint = fc.constantFrom(...fingerprints);
const quotas = fc.subarray([{ meter: 'cores', limit: 8 }, { meter: 'users', limit: 3 }]).chain((list) =>
  fc.tuple(...list.map((quota) => fc.integer({ min: 0, max: 9 }).map((limit) => ({ ...quota, limit })))));
const meter = fc.constantFrom('cores', 'users', 'unknown');
const cause = fc.option(fc.constantFrom(...holdCauses), { nil: undefined });
const expiresAt = fc.integer({ min: -5, max: 400 }).map((days) => addDays(start, days));
const maybe = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: undefined });

const issuing: fc.Arbitrary<LicenseCommand> = fc.record({
  customerId: maybe(fc.constantFrom(ada, grace)),
  terms: fc.record({
    activationLimit: limits, expiryGraceDays: fc.constantFrom(0, 7), binding: fc.constantFrom('none', 'none', 'fingerprint'), quotas,
    expiry: fc.option(fc.record({ value: fc.integer({ min: 1, max: 90 }), unit: fc.constant('days') })),
    expiryBasis: fc.constantFrom('purchase', 'firstActivation'), trial: fc.constantFrom(null, null, { days: 30 }),
    effectiveAt: fc.constantFrom(null, null, addDays(start, 10)),
  }),
}).map((fields) => issue(fields as Parameters<typeof issue>[0]));

const seats: fc.Arbitrary<LicenseCommand>[] = [
  fc.record({ type: fc.constant('Activate'), activationId, fingerprint: maybe(fingerprint), installationId: maybe(fc.constantFrom('in-1', 'in-2')) }),
  fc.record({ type: fc.constant('Deactivate'), activationId, by: fc.constantFrom('client', 'admin', 'lapse') }),
  fc.record({ type: fc.constant('Rebind'), activationId: maybe(activationId), fingerprint, reason: fc.constant('new box') }),
  fc.record({ type: fc.constantFrom('MissHeartbeat', 'LoseHeartbeat', 'RecoverHeartbeat'), activationId }),
  fc.record({ type: fc.constant('QueueDirective'), directiveId: fc.integer({ min: 1, max: 40 }).map((n) => idOf('dir', n)), kind: fc.constantFrom(...directiveKinds) }),
];
const others: fc.Arbitrary<LicenseCommand>[] = [
  fc.record({ type: fc.constant('Assign'), customerId: fc.constantFrom(ada, grace) }),
  fc.record({ type: fc.constant('Edit'), activationLimit: maybe(limits), expiresAt: maybe(fc.option(expiresAt, { nil: null })), quotas: maybe(quotas), customerId: maybe(fc.constantFrom(ada, grace)), metadata: maybe(fc.constantFrom({}, { a: 1 })) }),
  fc.record({ type: fc.constantFrom('Unsuspend', 'Reactivate'), cause }),
  fc.record({ type: fc.constantFrom('Suspend', 'Inactivate'), cause, until: maybe(expiresAt) }),
  fc.record({ type: fc.constant('Renew'), expiresAt, reason: fc.constant('paid') }),
  fc.record({ type: fc.constant('ExceedQuota'), meter, peak: fc.integer({ min: 0, max: 12 }), limit: fc.constant(8) }),
  fc.record({ type: fc.constant('RestoreQuota'), meter, peak: maybe(fc.integer({ min: 0, max: 12 })) }),
  fc.record({ pattern: fc.constantFrom('activationsPerHour', 'machinesPerDay'), action: fc.constantFrom('alert', 'suspend') }).map((fields) => suspectAbuse(fields as Parameters<typeof suspectAbuse>[0])),
  fc.record({ type: fc.constant('Sweep'), until: fc.integer({ min: 0, max: 500 }).map((days) => addDays(start, days)) }),
];
const endings: fc.Arbitrary<LicenseCommand>[] = [
  fc.integer({ min: 1, max: 4 }).map((n) => ({ type: 'RegenerateKey', key: licenseKey(n) })),
  fc.constant<LicenseCommand>({ type: 'Revoke' }),
  fc.record({ type: fc.constant('Erase'), reason: fc.constant('gone'), force: fc.boolean(), mayEraseActivated: fc.boolean() }),
];
const command: fc.Arbitrary<LicenseCommand> = fc.oneof(
  { weight: 12, arbitrary: fc.oneof(...seats) }, { weight: 12, arbitrary: fc.oneof(...others) }, { weight: 1, arbitrary: fc.oneof(...endings) }, { weight: 1, arbitrary: issuing },
);
/** Seconds that pass before a command: usually some minutes, sometimes weeks. */
const pause = fc.oneof({ weight: 3, arbitrary: fc.integer({ min: 0, max: 600 }) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 20 * 86_400 }) });
const asked = fc.tuple(issuing, fc.array(fc.record({ command, pause }), { maxLength: 30 }));

/** The facts again, told the simplest way, by somebody who does not know the rules. */
interface Facts { live: Map<ActivationId, string | null>; limit: number; holder: boolean; used: boolean; holds: Map<string, Instant | undefined>; expiresAt: Instant | null; graceDays: number; effectiveAt: Instant | null; expired: boolean; locked: boolean; revoked: boolean }

function note(facts: Facts | undefined, event: LicenseEvent): Facts | undefined {
  if (event.type === 'LicenseIssued') {
    const { activationLimit: limit, expiresAt: end, expiryGraceDays: graceDays, effectiveAt } = event.terms;
    return { live: new Map(), limit, holder: event.customerId !== null, used: false, holds: new Map(), expiresAt: end, graceDays, effectiveAt, expired: false, locked: false, revoked: false };
  }
  if (!facts) return facts;
  switch (event.type) {
    case 'LicenseAssigned': facts.holder = true; break;
    case 'InstanceActivated': facts.live.set(event.activationId, event.fingerprint); facts.used = true; break;
    case 'InstanceDeactivated': facts.live.delete(event.activationId); break;
    case 'InstanceRebound': facts.live.set(event.activationId, event.fingerprint); break;
    case 'ActivationLimitChanged': facts.limit = event.activationLimit; break;
    case 'ExpiryChanged': facts.expiresAt = event.expiresAt; break;
    case 'LicenseRenewed': facts.expiresAt = event.expiresAt; facts.expired = false; break;
    case 'LicenseSuspended': facts.holds.set(`suspended ${event.cause}`, event.until); break;
    case 'LicenseUnsuspended': facts.holds.delete(`suspended ${event.cause}`); break;
    case 'LicenseInactivated': facts.holds.set(`inactive ${event.cause}`, event.until); break;
    case 'LicenseReactivated': facts.holds.delete(`inactive ${event.cause}`); break;
    case 'LicenseExpired': facts.expired = true; break;
    case 'DirectiveQueued': facts.locked = event.kind === 'lock' || (facts.locked && event.kind !== 'unlock'); break;
    case 'KeyRegenerated': facts.live.clear(); break;
    case 'LicenseRevoked': facts.revoked = true; facts.live.clear(); break;
    case 'LicenseErased': return undefined;
  }
  return facts;
}

function statusTold({ revoked, expired, expiresAt: end, graceDays, holds, used, holder }: Facts, now: Instant): LicenseStatus {
  const over = end !== null && Date.parse(now) >= Date.parse(end) + graceDays * 86_400_000;
  const held = (kind: string) => [...holds].some(([hold, until]) => hold.startsWith(kind) && !(until !== undefined && Date.parse(now) >= Date.parse(until)));
  if (revoked) return 'revoked';
  return expired || over ? 'expired' : held('suspended') ? 'suspended' : held('inactive') ? 'inactive' : used ? 'active' : holder ? 'assigned' : 'available';
}

interface Step {
  command: LicenseCommand; now: Instant; state: LicenseState; events: readonly LicenseEvent[]; refusal: Refusal | undefined;
  before: Facts | undefined; facts: Facts | undefined;
}
const actor: EventOrigin['actor'] = { type: 'system', id: 'keyledger' };
/** A fold owns its state; to tell two futures of one, it takes two. */
const copyOf = (state: LicenseState): LicenseState => deserialize(serialize(state)) as LicenseState;

function attempt(state: LicenseState, asking: LicenseCommand, now: Instant): { events: readonly LicenseEvent[]; refusal?: Refusal } {
  try {
    return { events: License.decide(state, asking, now) };
  } catch (error) {
    if (error instanceof Refusal) return { events: [], refusal: error };
    throw error;
  }
}

/** Tells one history and looks at it after every command: a hundred thousand times and more, for which Jest's `expect` takes longer than all else. */
function tell([first, rest]: typeof asked extends fc.Arbitrary<infer T> ? T : never, look: (step: Step) => void): { events: LicenseEvent[]; now: Instant; state: LicenseState } {
  let state = License.initial();
  let facts: Facts | undefined;
  let now: Instant = start;
  const all: LicenseEvent[] = [];
  for (const { command: asking, pause: seconds } of [{ command: first, pause: 0 }, ...rest]) {
    now = addSeconds(now, seconds);
    const { events, refusal } = attempt(state, asking, now);
    const before = facts && { ...facts, live: new Map(facts.live) };
    for (const event of events) {
      state = License.evolve(state, event, { at: now, actor });
      facts = note(facts, event);
    }
    all.push(...events);
    look({ command: asking, now, state, events, refusal, before, facts });
  }
  return { events: all, now, state };
}

const always = (numRuns: number, check: (history: Parameters<typeof tell>[0]) => void) => fc.assert(fc.property(asked, check), { numRuns });

describe('In every history', () => {
  it('no seat is oversold, and every machine has one at most', () => always(5000, (history) => {
    tell(history, ({ events, before, facts, state }) => {
      if (events.some(({ type }) => type === 'InstanceActivated') && before) equal(before.limit === -1 || before.live.size < before.limit, true);
      if (!facts) return;
      const prints = [...facts.live.values()].filter((print) => print !== null);
      equal(new Set(prints).size, prints.length);
      const { activationCount, activations } = issued(state);
      equal(activationCount, facts.live.size);
      deepEqual(new Set([...activations.values()].filter(isLive).map(({ id }) => id)), new Set(facts.live.keys()));
    });
  }));

  it('nothing follows a revocation but an erasure', () => always(3000, (history) => {
    const { events } = tell(history, () => {});
    const revoked = events.findIndex(({ type }) => type === 'LicenseRevoked');
    if (revoked >= 0) expect(events.slice(revoked + 1).map(({ type }) => type).filter((type) => type !== 'LicenseErased')).toEqual([]);
  }));

  it('a command given twice does nothing the second time, or is refused for the same reason', () => always(5000, (history) => {
    tell(history, ({ command: asking, state, now, refusal }) => {
      const again = attempt(state, asking, now);
      deepEqual(again.events, []);
      const gone = asking.type === 'Erase' && state.existence === 'erased' ? 'LICENSE_NOT_FOUND' : undefined;
      equal(again.refusal?.code, refusal?.code ?? gone);
    });
  }));

  it('the status follows from the facts, the strongest first', () => always(4000, (history) => {
    tell(history, ({ state, facts, now }) => {
      equal(state.existence === 'issued', facts !== undefined);
      if (!facts) return;
      for (const instant of [now, addDays(now, 8), addDays(now, 400)]) equal(statusOf(issued(state), instant), statusTold(facts, instant));
    });
  }));

  it('the verdict is valid exactly for licenses that may be used and machines that have a seat', () => always(1500, (history) => {
    tell(history, ({ state: license, facts, now, events }) => {
      const bare = verdictOf(license, undefined, {}, now);
      if (!facts) return deepEqual(bare.reasons, ['NOT_FOUND']);
      const seatable = ['assigned', 'active'].includes(statusTold(facts, now)) && (!facts.effectiveAt || facts.effectiveAt <= now);
      const usable = seatable && !facts.locked;
      if (issued(license).terms.binding === 'none') equal(bare.valid, usable);
      for (const [instanceId, print] of facts.live) equal(verdictOf(license, undefined, { instanceId, fingerprint: print ?? 'any' }, now).valid, usable && (print !== null || issued(license).terms.binding === 'none'));
      for (const instanceId of activationIds) if (!facts.live.has(instanceId)) equal(verdictOf(license, undefined, { instanceId, fingerprint: 'fp-1' }, now).valid, false);
      equal(bare.valid, bare.reasons.every((code) => verdictWarnings.has(code)));
      if (events.some(({ type }) => type === 'InstanceActivated')) equal(seatable, true);
    });
  }));

  it('a verdict and what a client sees stay as they are until the instant at which they may change', () => always(3000, (history) => {
    const { state, now } = tell(history, () => {});
    if (state.existence !== 'issued') return;
    const questions = [{}, { fingerprint: 'fp-1' }, ...activationIds.slice(0, 3).map((instanceId) => ({ instanceId, fingerprint: 'fp-1' }))];
    const seen = (at: Instant) => [clientLicenseView(state, at), ...questions.map((question) => verdictOf(state, undefined, question, at))];
    const until = changesAt(state, now);
    if (until) equal(until > now, true);
    const last = until ? addSeconds(until, -0.001) : addDays(now, 4000);
    for (const at of [1, 2, 4, 8].map((part) => new Date(Date.parse(now) + (Date.parse(last) - Date.parse(now)) / part).toISOString())) deepEqual(seen(at), seen(now));
  }));

  it('what is offered is possible, and what is refused as impossible was not offered', () => always(3000, (history) => {
    const { state, now } = tell(history, ({ refusal, command: { type } }) => {
      if (refusal?.code === 'INVALID_TRANSITION' && type !== 'Edit') expect(refusal.members['allowed']).not.toContain(refusal.members['requested']);
    });
    if (state.existence !== 'issued') return;
    const offered = allowedActions(state, now);
    const trial = state.terms.trial !== null;
    const possible = (asking: LicenseCommand) => attempt(state, asking, now).refusal === undefined;
    expect(possible({ type: 'Assign', customerId: idOf('cus', 9) })).toBe(offered.includes('assign'));
    expect(possible({ type: 'RegenerateKey', key: licenseKey(9) })).toBe(offered.includes('regenerateKey'));
    expect(possible({ type: 'Edit', activationLimit: 7 })).toBe(offered.includes('edit'));
    if (!trial) expect(possible({ type: 'Renew', expiresAt: '2099-01-01T00:00:00.000Z', reason: 'paid' })).toBe(offered.includes('renew'));
  }));

  it('folds whatever was sealed away, from a snapshot, and out of order', () => always(4000, (history) => {
    const { events, now, state } = tell(history, () => {});
    const origin = { at: now, actor };
    const fold = (list: readonly LicenseEvent[], from = License.initial()) => list.reduce((license, event) => License.evolve(license, event, origin), from);
    const shredded = events.map((event) => ({ ...event, ...Object.fromEntries(((License.shapes[event.type].sealed ?? [])).map((name) => [name, null])) }) as LicenseEvent);
    const forgotten = fold(shredded);
    if (forgotten.existence === 'issued') expect(forgotten.activationCount).toBe(issued(state).activationCount);
    fold(events.toReversed());
    fold(events.slice(1));

    const half = Math.floor(events.length / 2);
    const resumed = fold(events.slice(half), deserialize(serialize(fold(events.slice(0, half)))) as LicenseState);
    expect(resumed).toEqual(fold(events));
    if (state.existence === 'issued') expect(JSON.parse(JSON.stringify(licenseView(state, now)))).toEqual(licenseView(state, now));
  }));

  it('sweeping every other day says the same as sweeping once, in the same order', () => always(1000, (history) => {
    const { state, now } = tell(history, () => {});
    const sweep = (from: LicenseState, at: Instant) => attempt(from, { type: 'Sweep', until: at }, at).events;
    const told = (from: LicenseState, events: readonly LicenseEvent[], at: Instant) => (events.length === 0 ? from : events.reduce((before, event) => License.evolve(before, event, { at, actor }), copyOf(from)));
    const end = addDays(now, 200);
    let [daily, known]: [LicenseState, LicenseEvent[]] = [state, []];
    for (let at = now; at <= end; at = addDays(at, 2)) {
      // Every occurrence is announced by the one before it, to the millisecond.
      const due = nextDue(daily);
      const events = sweep(daily, at);
      equal(events.length > 0, due !== null && due <= at);
      daily = told(daily, events, at);
      known = [...known, ...events];
    }
    const atOnce = sweep(state, end);
    expect(atOnce).toEqual(known);
    expect(sweep(told(state, atOnce, end), end)).toEqual([]);
    expect(told(state, atOnce, end)).toEqual(daily);
  }));

  it('the next sweep is due at the very instant before which there is nothing to say', () => always(3000, (history) => {
    const { state, now } = tell(history, () => {});
    const due = nextDue(state);
    const events = (at: Instant) => attempt(state, { type: 'Sweep', until: at }, at).events;
    if (due === null) expect(events(addDays(now, 100_000))).toEqual([]);
    else expect([events(addSeconds(due, -0.001)).length, events(due).length > 0]).toEqual([0, true]);
  }));
});
