import { deserialize, serialize } from 'node:v8';
import { describe, expect, it } from '@jest/globals';
import { addDays, addSeconds, Refusal, type DirectiveId, type ErrorCode, type Instant } from '@keyledger/kernel';
import {
  activate, assign, at, deactivate, desktop, direct, exceedQuota, idOf, inactivate, issue, laptop, loseHeartbeat, reactivate, rebind, regenerateKey, revoke,
  scenarios, server, suspend, sweep, unsuspend, type Story,
} from '@keyledger/testing';
import fc from 'fast-check';
import type { LicenseEvent } from '../license/events.ts';
import { License, type LicenseCommand } from '../license/license.ts';
import { issued, type Activation, type IssuedLicense } from '../license/state.ts';
import type { TermsInput } from '../license/terms.ts';
import { verdictOf } from '../license/verdict.ts';
import { beat, beatSeconds, deploymentStates, isEnding, isOutdated, leaseEndOf, leaseSeconds, lookAtOf, missedFrom, NO_BEAT, openLease, signedAtOf, silentFrom, type Beat, type BeatOutcome, type DeploymentState, type Lease } from './lease.ts';

const now = '2026-11-21T12:00:00.000Z';
const { story, stateOf } = scenarios(License, now);
const licensed = (terms: TermsInput = {}) => story(issue({ terms }), assign(), activate(laptop, { appliance: true }));
const active = licensed();
const inFull = { state: 'active', enforcement: 'FULL' } as const;

const of = (history: Story<LicenseEvent>): IssuedLicense => issued(stateOf(history));
const heartbeat = (seq: number, fields: Partial<Beat> = {}): Beat => ({ activationId: laptop.activationId, fingerprint: 'fp-laptop', seq, said: `beat ${seq}`, ...fields });

/** Decides twice and looks whether anything was touched: the rules have neither clock nor memory. */
function decide(history: Story<LicenseEvent>, kept: Lease | undefined, asked: Beat, instant: Instant): BeatOutcome {
  const license = of(history);
  const before = serialize([license, kept]);
  const outcome = beat(license, kept, asked, instant);
  expect(beat(license, kept, asked, instant)).toEqual(outcome);
  expect(deserialize(before)).toEqual([license, kept]);
  return outcome;
}

/** Beats one after the other, each at its instant; a beat that is not accepted is a mistake in the fixture. */
function after(history: Story<LicenseEvent>, ...beats: readonly (readonly [Beat, Instant])[]): Lease | undefined {
  return beats.reduce<Lease | undefined>((lease, [asked, instant]) => {
    const outcome = decide(history, lease, asked, instant);
    if (outcome.kind !== 'accepted') throw new Error(`Heartbeat ${asked.seq} is not accepted here`);
    return outcome.lease;
  }, undefined);
}

const refusalOf = (work: () => unknown): Pick<Refusal, 'code' | 'members'> | undefined => {
  try {
    work();
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return { code: error.code, members: error.members };
    throw error;
  }
};
const refused = (code: ErrorCode, work: () => unknown, members: object = {}) => expect(refusalOf(work)).toMatchObject({ code, members });

describe('A heartbeat that stays out', () => {
  const waited: TermsInput = { validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600, offlineGraceDays: 14 };
  const missed = (history: Story<LicenseEvent>, lease: Lease | undefined, upSince?: Instant) => {
    const license = of(history);
    return missedFrom(license, license.activations.get(laptop.activationId) as never, lease, upSince);
  };

  it('has been missed for sure two intervals after the last one, or after the activation', () => {
    expect(missed(licensed(waited), undefined)).toBe(addSeconds(now, 7200));
    const lease = after(licensed(waited), [heartbeat(0), addDays(now, 2)]) as Lease;
    expect(missed(licensed(waited), lease)).toBe(addSeconds(addDays(now, 2), 7200));
    expect(lookAtOf(of(licensed(waited)), laptop.activationId, lease)).toBe(addSeconds(addDays(now, 2), 7200));
  });

  it('is not missed before somebody could hear of it', () => {
    const upSince = addDays(now, 3);
    expect(missed(licensed(waited), undefined, upSince)).toBe(addSeconds(upSince, 7200));
    expect(missed(licensed(waited), undefined, addDays(now, 14))).toBeUndefined();
  });

  it('is missed by nobody who does not wait for it, or is at its end by then', () => {
    for (const terms of [{ ...waited, validationMode: 'online' }, { ...waited, seats: 'floating' }, { ...waited, heartbeatIntervalSeconds: 7 * 86_400 }] as const) {
      const lease = openLease(of(licensed(terms)), laptop.activationId, undefined, now);
      expect([terms, missed(licensed(terms), lease)]).toEqual([terms, undefined]);
      expect(lookAtOf(of(licensed(terms)), laptop.activationId, lease)).toBe(lease.endsAt);
    }
  });

  it('of the box that was there before counts for nothing', () => {
    const later = addDays(now, 5);
    const moved = story(licensed(waited), at(later, rebind('fp-new', laptop)));
    expect(missed(moved, after(licensed(waited), [heartbeat(0), now]))).toBe(addSeconds(later, 7200));
  });
});

describe('A heartbeat', () => {
  it('extends the lease by the offline grace from its arrival', () => {
    expect(decide(active, undefined, heartbeat(0), now)).toMatchObject({ kind: 'accepted', standing: inFull, recovered: false, directives: [], lease: { seq: 0, contactAt: now, endsAt: addDays(now, 14) } });
    const later = addDays(now, 3);
    expect(after(active, [heartbeat(0), now], [heartbeat(7), later])).toMatchObject({ seq: 7, said: 'beat 7', contactAt: later, endsAt: addDays(later, 14) });
  });

  it.each([
    [{ offlineGraceDays: 3 }, 3 * 86_400], [{ offlineGraceDays: 0, heartbeatIntervalSeconds: 60 }, 120], [{ seats: 'floating', heartbeatIntervalSeconds: 60 }, 180], [{ heartbeatIntervalSeconds: 60 }, 14 * 86_400],
  ] satisfies [TermsInput, number][])('with %j extends it by %d s', (terms, seconds) => {
    const history = licensed(terms);
    expect(leaseSeconds(of(history).terms)).toBe(seconds);
    expect(after(history, [heartbeat(1), now])).toMatchObject({ endsAt: addSeconds(now, seconds) });
  });

  it.each([
    [{ heartbeatIntervalSeconds: 60 }, 60], [{ offlineGraceDays: 1, heartbeatIntervalSeconds: 86_400 }, 43_200], [{ offlineGraceDays: 0, heartbeatIntervalSeconds: 60 }, 60],
    [{ seats: 'floating', heartbeatIntervalSeconds: 60 }, 60], [{ heartbeatIntervalSeconds: 30 * 86_400 }, 7 * 86_400],
  ] satisfies [TermsInput, number][])('with %j is asked for so that the next one comes within the lease: after %d s', (terms, seconds) => expect(beatSeconds(of(licensed(terms)).terms)).toBe(seconds));

  it('that comes again gets the same answer, and extends nothing', () => {
    const lease = after(active, [heartbeat(5), now]);
    expect(decide(active, lease, heartbeat(5), addDays(now, 13))).toEqual({ kind: 'again' });
    expect(decide(active, lease, heartbeat(5), addDays(now, 400))).toEqual({ kind: 'again' });
  });

  it('that comes again when its answer is no longer true is told the truth, and extends nothing', () => {
    const lease = after(active, [heartbeat(5), now]);
    expect(decide(story(active, revoke()), lease, heartbeat(5), now)).toEqual({ kind: 'told', standing: { state: 'revoked', enforcement: 'LOCKED' }, directives: [] });
    expect(decide(story(active, suspend()), lease, heartbeat(5), now)).toMatchObject({ kind: 'told', standing: { state: 'suspended', enforcement: 'LOCKED' } });
    const metered = licensed({ quotas: [{ meter: 'cores', limit: 8 }] });
    expect(decide(story(metered, exceedQuota(9, 8, 'cores')), after(metered, [heartbeat(5), now]), heartbeat(5), now)).toMatchObject({ kind: 'told', standing: { state: 'active', enforcement: 'WARN' } });
    expect(decide(story(active, suspend(), revoke()), after(story(active, suspend()), [heartbeat(5), now]), heartbeat(5), now)).toMatchObject({ kind: 'told', standing: { state: 'revoked', enforcement: 'LOCKED' } });
  });

  it('with a number that is behind is refused', () => {
    const lease = after(active, [heartbeat(5), now]);
    for (const seq of [4, 0]) expect(refusalOf(() => decide(active, lease, heartbeat(seq), now))).toEqual({ code: 'STALE_SEQUENCE', members: { lastSeq: 5 } });
  });

  it('with the last number that says something else comes from another box with the same counter', () => {
    const lease = after(active, [heartbeat(5), now]);
    refused('STALE_SEQUENCE', () => decide(active, lease, heartbeat(5, { said: 'another nonce' }), now), { lastSeq: 5, conflict: true });
  });

  it('from a stranger is refused', () => {
    refused('INSTANCE_NOT_FOUND', () => decide(active, undefined, heartbeat(1, { activationId: desktop.activationId }), now));
    refused('FINGERPRINT_MISMATCH', () => decide(active, undefined, heartbeat(1, { fingerprint: 'fp-stranger' }), now));
  });

  it('of an instance that never named its hardware is not held to any', () => {
    const history = story(issue(), assign(), activate(server));
    expect(decide(history, undefined, heartbeat(1, { activationId: server.activationId, fingerprint: 'any' }), now)).toMatchObject({ kind: 'accepted', standing: inFull });
  });

  it('ends a silence that was made explicit, and one that was not', () => {
    const late = addDays(now, 20);
    const lease = after(active, [heartbeat(1), now]);
    expect(decide(story(active, loseHeartbeat()), lease, heartbeat(2), late)).toMatchObject({ kind: 'accepted', standing: inFull, recovered: true, lease: { endsAt: addDays(late, 14) } });
    expect(decide(active, lease, heartbeat(2), late)).toMatchObject({ kind: 'accepted', standing: inFull, recovered: false, lease: { endsAt: addDays(late, 14) } });
  });
});

describe('A box is told', () => {
  const expiring = licensed({ expiry: { value: 1, unit: 'days' } });
  const metered = licensed({ quotas: [{ meter: 'cores', limit: 8 }], expiry: { value: 100, unit: 'days' }, expiryGraceDays: 7 });
  const over = story(metered, exceedQuota(9, 8, 'cores'));
  const cases: [what: string, Story<LicenseEvent>, DeploymentState, enforcement: string, instant?: Instant][] = [
    ['that all is well', active, 'active', 'FULL'],
    ['that all is well, when the license is bound to hardware', licensed({ binding: 'fingerprint' }), 'active', 'FULL'],
    ['that it is over quota', over, 'active', 'WARN'],
    ['that it was over quota for too long', story(over, at(addDays(now, 7), sweep())), 'active', 'READ_ONLY', addDays(now, 7)],
    ['that the license is in its last grace', metered, 'active', 'WARN', addDays(now, 100)],
    ['that the license is expired', expiring, 'expired', 'READ_ONLY', addDays(now, 1)],
    ['that the license is expired, and locks then', licensed({ expiry: { value: 1, unit: 'days' }, expiredEnforcement: 'LOCKED' }), 'expired', 'LOCKED', addDays(now, 1)],
    ['that the subscription is invalid', story(active, suspend({ cause: 'subscription' })), 'suspended', 'LOCKED'],
    ['that the subscription is restored', story(active, suspend({ cause: 'subscription' }), unsuspend({ cause: 'subscription' })), 'active', 'FULL'],
    ['that another hold is left', story(active, suspend({ cause: 'subscription' }), suspend(), unsuspend({ cause: 'subscription' })), 'suspended', 'LOCKED'],
    ['that an administrator has paused it', story(active, inactivate()), 'inactive', 'LOCKED'],
    ['that the pause is over', story(active, inactivate(), reactivate()), 'active', 'FULL'],
    ['that the license is revoked', story(active, revoke()), 'revoked', 'LOCKED'],
    ['that the license is revoked, whatever else it is', story(expiring, direct('lock'), suspend(), revoke()), 'revoked', 'LOCKED', addDays(now, 1)],
    ['that its seat was taken away', story(active, deactivate(laptop, 'admin')), 'locked', 'LOCKED'],
    ['that its seat was taken away, whatever else is wrong', story(active, suspend(), deactivate(laptop, 'admin')), 'locked', 'LOCKED'],
    ['that its seat has lapsed', story(active, deactivate(laptop, 'lapse')), 'locked', 'LOCKED'],
    ['that its key is no longer good', story(active, regenerateKey()), 'locked', 'LOCKED'],
    ['that it has moved', story(active, rebind()), 'rebound', 'LOCKED'],
    ['that it has moved, before anything else', story(active, rebind(), suspend()), 'rebound', 'LOCKED'],
    ['that it is locked by a directive', story(active, direct('lock')), 'locked', 'LOCKED'],
    ['that it is locked, though the license is expired only', story(expiring, direct('lock')), 'expired', 'LOCKED', addDays(now, 1)],
    ['that it is unlocked', story(active, direct('lock', 1), direct('unlock', 2)), 'active', 'FULL'],
  ];

  it.each(cases)('%s', (_, history, state, enforcement, instant = now) => {
    const outcome = decide(history, undefined, heartbeat(1), instant);
    expect(outcome.kind === 'again' ? undefined : outcome.standing).toEqual({ state, enforcement });
  });

  it('each of the states', () => expect(new Set(cases.map(([, , state]) => state))).toEqual(new Set(deploymentStates)));
});

describe('A box that was rebound', () => {
  const moved = story(active, at(addSeconds(now, 60), rebind('fp-new')));
  const lease = after(active, [heartbeat(100), now]);
  it('is locked, and leaves no trace in the lease', () =>
    expect(decide(moved, lease, heartbeat(101), addSeconds(now, 90))).toEqual({ kind: 'told', standing: { state: 'rebound', enforcement: 'LOCKED' }, directives: [] }));
  it('makes room for one that counts from the start', () =>
    expect(decide(moved, lease, heartbeat(0, { fingerprint: 'fp-new' }), addSeconds(now, 90))).toMatchObject({ kind: 'accepted', standing: inFull, lease: { seq: 0, boundAt: addSeconds(now, 60) } }));
  it('counts anew when it gets its place back', () => {
    const back = story(moved, at(addSeconds(now, 120), rebind('fp-laptop')));
    expect(decide(back, lease, heartbeat(3), addSeconds(now, 150))).toMatchObject({ kind: 'accepted', lease: { seq: 3, boundAt: addSeconds(now, 120) } });
  });
});

describe('A seat that has ended', () => {
  it('answers its heartbeats and extends nothing', () => {
    const lease = after(active, [heartbeat(1), now]);
    const ended = story(active, deactivate(laptop, 'admin'));
    const outcome = decide(ended, lease, heartbeat(2), addDays(now, 1));
    expect(outcome).toMatchObject({ kind: 'accepted', standing: { state: 'locked' }, directives: [], recovered: false, lease: { seq: 2, endsAt: lease?.endsAt } });
    expect(outcome.kind === 'accepted' && decide(ended, outcome.lease, heartbeat(2), addDays(now, 2))).toEqual({ kind: 'again' });
  });
});

describe('Directives', () => {
  const queued = story(active, at(addSeconds(now, 1), direct('refresh', 1)), at(addSeconds(now, 2), direct('message', 2, { payload: { text: 'hello' } })));
  const ids = (outcome: BeatOutcome) => (outcome.kind === 'again' ? undefined : outcome.directives.map(({ id }) => id));
  const [first, second] = [idOf('dir', 1), idOf('dir', 2)];

  it('come with every heartbeat until they are acknowledged, each by itself', () => {
    const one = after(queued, [heartbeat(1), now]);
    expect(ids(decide(queued, one, heartbeat(2), now))).toEqual([first, second]);
    const two = after(queued, [heartbeat(1), now], [heartbeat(2, { acks: [second] }), now]);
    expect(two?.acked).toEqual([second]);
    expect(ids(decide(queued, two, heartbeat(3), now))).toEqual([first]);
    expect(ids(decide(queued, two, heartbeat(3, { acks: [first, second] }), now))).toEqual([]);
  });
  it('are for a box that was there at the very moment, and not for a seat that has ended', () => {
    const told = story(active, direct('refresh', 1));
    expect(ids(decide(told, undefined, heartbeat(1), now))).toEqual([first]);
    expect(ids(decide(story(told, deactivate(laptop, 'admin')), undefined, heartbeat(1), now))).toEqual([]);
  });
  it('are not for boxes that were not there yet', () => {
    const later = story(queued, at(addSeconds(now, 9), activate(desktop)));
    expect(ids(decide(later, undefined, heartbeat(1, { activationId: desktop.activationId, fingerprint: 'fp-desktop' }), addSeconds(now, 10)))).toEqual([]);
    const moved = story(queued, at(addSeconds(now, 9), rebind('fp-new')));
    expect(ids(decide(moved, undefined, heartbeat(1, { fingerprint: 'fp-new' }), addSeconds(now, 10)))).toEqual([]);
  });
  it('are acknowledged by their ids alone', () => expect(after(queued, [heartbeat(1, { acks: [idOf('dir', 9), 'x' as DirectiveId, first, first] }), now])?.acked).toEqual([first]));
  it('are not acknowledged by a heartbeat that is refused or comes again', () => {
    const lease = after(queued, [heartbeat(2), now]);
    refused('STALE_SEQUENCE', () => decide(queued, lease, heartbeat(1, { acks: [first] }), now));
    expect(ids(decide(queued, lease, heartbeat(3), now))).toEqual([first, second]);
  });
});

describe('Activating a box', () => {
  it('opens its lease', () =>
    expect(openLease(of(active), laptop.activationId, undefined, now)).toEqual({ boundAt: now, seq: NO_BEAT, said: '', told: inFull, contactAt: now, endsAt: addDays(now, 14), acked: [] }));
  it('once more extends nothing, and keeps the count', () => {
    const lease = after(active, [heartbeat(5), now]) as Lease;
    expect(openLease(of(active), laptop.activationId, lease, addDays(now, 13))).toBe(lease);
  });
  it('once more extends nothing where heartbeats are owed, and keeps a floating seat that owes none', () => {
    for (const [terms, kept] of [[{ seats: 'floating', validationMode: 'heartbeat' }, true], [{ validationMode: 'heartbeat' }, true], [{ seats: 'floating' }, false]] as const) {
      const [license, later] = [of(licensed(terms)), addSeconds(now, 3600)];
      const lease = openLease(license, laptop.activationId, undefined, now);
      expect(openLease(license, laptop.activationId, lease, later)).toEqual(kept ? lease : { ...lease, contactAt: later, endsAt: addSeconds(later, leaseSeconds(license.terms)) });
    }
  });
  it('opens a lease that is over again, and keeps the count', () => {
    const lease = after(active, [heartbeat(5), now]) as Lease;
    const late = addDays(now, 14);
    const opened = openLease(of(active), laptop.activationId, lease, late);
    expect(opened).toEqual({ ...lease, contactAt: late, endsAt: addDays(late, 14) });
    refused('STALE_SEQUENCE', () => decide(active, opened, heartbeat(4), late));
  });
  it('after a rebind begins anew', () => {
    const moved = story(active, at(addSeconds(now, 60), rebind('fp-new')));
    expect(openLease(of(moved), laptop.activationId, after(active, [heartbeat(5), now]), addDays(now, 1))).toMatchObject({ seq: NO_BEAT, boundAt: addSeconds(now, 60), endsAt: addDays(now, 15) });
  });
});

describe('A seat of which it has been decided that it is over', () => {
  const floating = licensed({ seats: 'floating', heartbeatIntervalSeconds: 60 });
  const lease = { boundAt: now, endsAt: addSeconds(now, 180), isOver: true };
  const laptopIn = (history: Story<LicenseEvent>) => of(history).activations.get(laptop.activationId) as Activation;
  it('is ending until the license says so', () => {
    expect([isEnding(laptopIn(floating), lease), isEnding(laptopIn(story(floating, loseHeartbeat())), lease), isEnding(laptopIn(floating), { ...lease, isOver: false }), isEnding(undefined, lease)]).toEqual([true, false, false, false]);
  });
  it('is that of the appliance before a rebind, and not of the one after it', () => {
    const moved = story(floating, at(addSeconds(now, 200), rebind('fp-new')));
    expect([isEnding(laptopIn(moved), lease), silentFrom(of(moved), laptopIn(moved), lease)]).toEqual([false, addSeconds(now, 380)]);
  });
});

describe('An instance is silent', () => {
  const silent = (terms: TermsInput, seenAt?: Instant) => {
    const license = of(licensed({ seats: 'floating', heartbeatIntervalSeconds: 60, ...terms }));
    return silentFrom(license, license.activations.get(laptop.activationId) as Activation, undefined, seenAt);
  };
  it('a lease after it was last seen, and never before its lease ends', () =>
    expect([silent({}), silent({}, addSeconds(now, -100)), silent({}, addSeconds(now, 100))]).toEqual([180, 180, 280].map((seconds) => addSeconds(now, seconds))));
  it('whatever else it asks, where it owes heartbeats', () => expect(silent({ validationMode: 'heartbeat' }, addSeconds(now, 100))).toBe(addSeconds(now, 180)));
});

describe('An instance is overdue', () => {
  const history = licensed({ validationMode: 'heartbeat' });
  const instance = (from: IssuedLicense) => from.activations.get(laptop.activationId) as NonNullable<ReturnType<IssuedLicense['activations']['get']>>;
  const codeAt = (instant: Instant, lease?: Lease, of_ = history) => {
    const license = of(of_);
    return verdictOf(license, leaseEndOf(license, instance(license), lease), { instanceId: laptop.activationId }, instant).code;
  };
  it('from the very instant at which its lease ends, to the millisecond', () => {
    const lease = after(history, [heartbeat(1), addDays(now, 1)]);
    expect(codeAt(addDays(now, 14), lease)).toBe('VALID');
    expect(codeAt('2026-12-06T11:59:59.999Z', lease)).toBe('VALID');
    expect(codeAt('2026-12-06T12:00:00.000Z', lease)).toBe('HEARTBEAT_OVERDUE');
  });
  it('when it has never sent a heartbeat, counted from its activation, or from when it was moved', () => {
    expect([codeAt(addDays(now, 13)), codeAt(addDays(now, 14))]).toEqual(['VALID', 'HEARTBEAT_OVERDUE']);
    const moved = story(history, at(addDays(now, 5), rebind('fp-new')));
    const lease = after(history, [heartbeat(1), now]);
    expect([codeAt(addDays(now, 18), lease, moved), codeAt(addDays(now, 19), lease, moved)]).toEqual(['VALID', 'HEARTBEAT_OVERDUE']);
  });
  it('never, where nobody waits for heartbeats', () => expect(codeAt(addDays(now, 1000), undefined, active)).toBe('VALID'));
});

describe('A lease is signed anew', () => {
  const { terms } = of(active);
  const token = { signedAt: now, says: 'what it says' };
  it('when it says something else, or there is none', () => {
    expect(isOutdated(undefined, 'what it says', terms, now)).toBe(true);
    expect(isOutdated(token, 'something else', terms, now)).toBe(true);
  });
  it('as soon as it is a four-hundredth shorter than a new one would be, and not with each heartbeat', () => {
    expect([0, 60, 3024].map((seconds) => isOutdated(token, token.says, terms, addSeconds(now, seconds)))).toEqual([false, false, false]);
    expect(isOutdated(token, token.says, terms, addSeconds(now, 3025))).toBe(true);
  });
  it('with the next heartbeat, when it was signed for the rest of a running lease, or for one of other terms', () => {
    const running = after(active, [heartbeat(1), now]);
    for (const [offlineGraceDays, seconds, outdated] of [[14, 60, false], [14, 13 * 86_400, true], [3, 60, true], [365, 60, true]] as const) {
      const [license, later] = [of(licensed({ offlineGraceDays })), addSeconds(now, seconds)];
      const signedAt = signedAtOf(openLease(license, laptop.activationId, running, later), license.terms);
      expect([offlineGraceDays, seconds, isOutdated({ ...token, signedAt }, token.says, license.terms, later)]).toEqual([offlineGraceDays, seconds, outdated]);
    }
  });
});

/** Heartbeats of two boxes with one counter, in any order, over and over, while the license goes through its life. */
describe('Whatever is sent, in whatever order, however often', () => {
  const commands: LicenseCommand[] = [
    suspend({ cause: 'subscription' }), unsuspend({ cause: 'subscription' }), inactivate(), reactivate(), revoke(), rebind('fp-new', laptop), rebind('fp-laptop', laptop), deactivate(laptop, 'lapse'),
    loseHeartbeat(laptop), direct('lock', 1), direct('unlock', 2),
  ];
  const step = fc.oneof(
    { weight: 12, arbitrary: fc.record({ seq: fc.integer({ min: 0, max: 6 }), box: fc.constantFrom('fp-laptop', 'fp-laptop', 'fp-new'), said: fc.constantFrom('a', 'a', 'a', 'b') }) },
    { weight: 2, arbitrary: fc.record({ command: fc.constantFrom(...commands) }) },
    { weight: 1, arbitrary: fc.constant({ activate: true as const }) },
  );
  const history = fc.array(fc.tuple(step, fc.integer({ min: 0, max: 6 * 86_400 })), { maxLength: 40 });
  const terms = fc.constantFrom<TermsInput>({}, { offlineGraceDays: 3 }, { seats: 'floating', validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600 });

  const refusing = <T>(work: () => T): T | undefined => {
    try {
      return work();
    } catch (error) {
      if (error instanceof Refusal) return undefined;
      throw error;
    }
  };

  it('nothing but a new number extends a lease, and a license that is not good is never told FULL', () => fc.assert(fc.property(terms, history, (given, steps) => {
    let happened = licensed(given);
    let lease: Lease | undefined;
    let instant: Instant = now;
    const seen = new Map<string, number>(); // box since its binding → highest number accepted
    for (const [asked, pause] of steps) {
      instant = addSeconds(instant, pause);
      if ('command' in asked) {
        const { command } = asked;
        const events = refusing(() => License.decide(stateOf(happened), command, instant)) ?? [];
        happened = { happened: [...happened.happened, ...events.map((event) => ({ event, origin: { at: instant, actor: { type: 'system' as const, id: 'test' } } }))] };
        continue;
      }
      const license = of(happened);
      const activation = license.activations.get(laptop.activationId);
      if ('activate' in asked) {
        const opened = refusing(() => openLease(license, laptop.activationId, lease, instant)) as Lease;
        if (lease?.boundAt === opened.boundAt && lease.endsAt > instant) expect(opened.endsAt).toBe(lease.endsAt);
        expect(opened.seq).toBeGreaterThanOrEqual(lease?.boundAt === opened.boundAt ? lease.seq : NO_BEAT);
        lease = opened;
        continue;
      }
      const sent = heartbeat(asked.seq, { fingerprint: asked.box, said: `${asked.seq} ${asked.said}` });
      const outcome = refusing(() => beat(license, lease, sent, instant));
      if (!outcome) continue;
      if (outcome.kind === 'again') {
        expect(lease).toMatchObject({ seq: asked.seq, said: sent.said });
        continue;
      }
      const good = !license.revokedAt && license.holds.length === 0 && activation?.endedAt === null && activation.fingerprint === asked.box && !license.locked;
      if (!good) expect(outcome.standing.enforcement).toBe('LOCKED');
      if (outcome.kind === 'told') continue;
      const counted = `${activation?.reboundAt ?? activation?.createdAt}`;
      expect(asked.seq).toBeGreaterThan(seen.get(counted) ?? NO_BEAT);
      seen.set(counted, asked.seq);
      const ends = addSeconds(instant, leaseSeconds(license.terms));
      expect(outcome.lease.endsAt <= ends).toBe(true);
      if (activation?.endedAt !== null) expect([lease?.endsAt, instant]).toContain(outcome.lease.endsAt);
      lease = outcome.lease;
    }
  }), { numRuns: 3000 }));
});
