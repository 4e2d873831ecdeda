import { describe, expect, it } from '@jest/globals';
import fc from 'fast-check';
import { activate, assign, issue, laptop, revoke, scenarios, suspectAbuse, suspend, unsuspend } from '@keyledger/testing';
import { License } from '../license/license.ts';
import { issued, statusOf } from '../license/state.ts';
import { AbuseRules, Denials, findingsIn, type AbuseRule, type Sighting } from './abuse.ts';

const now = '2026-03-12T12:00:00.000Z';
const minutesAgo = (minutes: number) => new Date(Date.parse(now) - minutes * 60_000).toISOString();
const seen = (minutes: number, machine = 'm1', address = 'a1', revision = 1_440 - minutes): Sighting => ({ at: minutesAgo(minutes), machine, address, revision });
const perHour = { pattern: 'activationsPerHour', limit: 2, action: 'alert' } as const;
const none = new Map<string, number>();

describe('A pattern of abuse', () => {
  it('is more than the rule allows, within its time', () => {
    expect(findingsIn([perHour], [seen(59), seen(1)], none, now)).toEqual([]);
    expect(findingsIn([perHour], [seen(60), seen(59), seen(1)], none, now)).toEqual([]);
    expect(findingsIn([perHour], [seen(59), seen(30), seen(30, 'm1', 'a1', 1_411)], none, now)).toEqual([
      { ...perHour, observed: 3, from: minutesAgo(59), until: now, evidence: [1_440 - 59, 1_440 - 30, 1_411] },
    ]);
  });

  it.each<[string, AbuseRule, readonly Sighting[], number | undefined]>([
    ['one machine, however often', { pattern: 'machinesPerDay', limit: 1, action: 'alert' }, [seen(3), seen(2), seen(1)], undefined],
    ['two machines', { pattern: 'machinesPerDay', limit: 1, action: 'alert' }, [seen(1_439), seen(1, 'm2')], 2],
    ['two machines on two days', { pattern: 'machinesPerDay', limit: 1, action: 'alert' }, [seen(1_440), seen(1, 'm2')], undefined],
    ['one address', { pattern: 'addressesPerDay', limit: 1, action: 'alert' }, [seen(2, 'm1'), seen(1, 'm2')], undefined],
    ['two addresses', { pattern: 'addressesPerDay', limit: 1, action: 'alert' }, [seen(2, 'm1', 'a1'), seen(1, 'm1', 'a2')], 2],
  ])('counts what it says: %s', (_, rule, sightings, observed) => {
    expect(findingsIn([rule], sightings, none, now)[0]?.observed).toBe(observed);
  });

  it.each([['activationsPerHour', 3_600], ['machinesPerDay', 86_400], ['addressesPerDay', 86_400]] as const)('is looked for in its own time, and not a millisecond longer: %s, %d seconds', (pattern, seconds) => {
    const found = (ms: number) => findingsIn([{ pattern, limit: 0, action: 'alert' }], [{ ...seen(0), at: new Date(Date.parse(now) - seconds * 1_000 + ms).toISOString() }], none, now);
    expect(found(0)).toEqual([]);
    expect(found(1)).toHaveLength(1);
  });

  it('shows the last hundred of its evidence', () => {
    const [finding] = findingsIn([perHour], Array.from({ length: 150 }, (_, n) => seen(1, 'm1', 'a1', n + 1)), none, now);
    expect(finding).toMatchObject({ observed: 150, evidence: Array.from({ length: 100 }, (_, n) => n + 51) });
  });

  it('is not found again in what was held against the license before', () => {
    const sightings = [seen(50), seen(40), seen(30), seen(20), seen(10)];
    expect(findingsIn([perHour], sightings, new Map([['activationsPerHour', 1_410]]), now)).toEqual([]);
    expect(findingsIn([perHour], sightings, new Map([['activationsPerHour', 1_400]]), now)).toMatchObject([{ observed: 3, from: minutesAgo(30) }]);
    expect(findingsIn([perHour], sightings, new Map([['machinesPerDay', 1_440]]), now)).toHaveLength(1);
  });

  it('is found in all that came after the evidence before, though it came in the same minute', () => {
    const sightings = [1, 2, 3, 4, 5, 6].map((revision) => seen(1, 'm1', 'a1', revision));
    expect(findingsIn([perHour], sightings, new Map([['activationsPerHour', 3]]), now)).toMatchObject([{ observed: 3, evidence: [4, 5, 6] }]);
  });

  it('is never found below the limit, and its evidence is what was seen, a hundred at most', () => {
    const sighting = fc.record({ minutes: fc.integer({ min: 0, max: 2_000 }), machine: fc.constantFrom('m1', 'm2', 'm3'), address: fc.constantFrom('a1', 'a2') });
    const rule = fc.record({ pattern: fc.constantFrom('activationsPerHour', 'machinesPerDay', 'addressesPerDay'), limit: fc.integer({ min: 1, max: 150 }), action: fc.constant('alert') }) as fc.Arbitrary<AbuseRule>;
    fc.assert(fc.property(fc.array(sighting, { maxLength: 300 }), rule, (sightings, one) => {
      const sorted = sightings.toSorted((a, b) => b.minutes - a.minutes).map(({ minutes, machine, address }, n) => seen(minutes, machine, address, n));
      for (const { observed, evidence, from, until } of findingsIn([one], sorted, none, now)) {
        expect(observed).toBeGreaterThan(one.limit);
        expect(evidence.length).toBeLessThanOrEqual(100);
        expect(from <= until).toBe(true);
      }
    }));
  });
});

describe('The rules of an environment', () => {
  const { given, story } = scenarios(AbuseRules, now);
  const suspends = { pattern: 'machinesPerDay', limit: 5, action: 'suspend' } as const;

  it('are none until somebody makes them, and one for each pattern', () => {
    given().when({ type: 'Set', rules: [] }).thenNothing();
    given().when({ type: 'Set', rules: [suspends, perHour] }).thenEvents({ type: 'AbuseRulesSet', rules: [perHour, suspends] });
    given().when({ type: 'Set', rules: [perHour, { ...perHour, limit: 9 }] }).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/rules' }] });
    given(story({ type: 'Set', rules: [perHour, suspends] })).when({ type: 'Set', rules: [suspends, perHour] }).thenNothing();
    given(story({ type: 'Set', rules: [perHour] })).when({ type: 'Set', rules: [] }).thenEvents({ type: 'AbuseRulesSet', rules: [] });
  });
});

describe('A license that is suspected', () => {
  const { given, story } = scenarios(License, '2027-11-01T12:00:00.000Z');
  const active = story(issue(), assign(), activate(laptop));

  it('is suspended where the rule says so, and told why', () => {
    given(active).when(suspectAbuse()).thenEvents(
      { type: 'AbuseSuspected', pattern: 'activationsPerHour', observed: 4, evidence: [4, 5] },
      { type: 'LicenseSuspended', cause: 'abuse', reason: '4 activations within an hour, 3 are allowed' },
      (state) => expect(statusOf(issued(state), '2027-11-01T12:00:00.000Z')).toBe('suspended'),
    );
    given(active).when(suspectAbuse({ action: 'alert' })).thenEvents({ type: 'AbuseSuspected' });
  });

  it('keeps the hold it has, and one of another cause is none of it', () => {
    given(story(active, suspectAbuse())).when(suspectAbuse({ evidence: [6, 7] })).thenEvents({ type: 'AbuseSuspected' });
    given(story(active, suspend())).when(suspectAbuse()).thenEvents({ type: 'AbuseSuspected' }, { type: 'LicenseSuspended', cause: 'abuse' });
  });

  it('is not suspended again on the same evidence once somebody has lifted the hold', () => {
    const lifted = story(active, suspectAbuse(), unsuspend({ cause: 'abuse' }));
    given(lifted).when(suspectAbuse()).thenNothing();
    given(lifted).when(suspectAbuse({ evidence: [5, 6] })).thenNothing();
    given(lifted).when(suspectAbuse({ evidence: [6, 7] })).thenEvents({ type: 'AbuseSuspected' }, { type: 'LicenseSuspended' });
    given(story(lifted, suspectAbuse({ pattern: 'machinesPerDay' }))).when(suspectAbuse()).thenNothing();
    given(lifted).when(suspectAbuse({ pattern: 'machinesPerDay' })).thenEvents({ type: 'AbuseSuspected' }, { type: 'LicenseSuspended' });
  });

  it('is not suspended where the state machine has no such step, though it is noted', () => {
    const sold = story(issue({ terms: { expiresAt: '2027-12-01T00:00:00.000Z' } }), assign(), activate(laptop));
    given(sold, '2027-12-01T00:00:00.000Z').when(suspectAbuse({ evidence: [1, 2] })).thenEvents({ type: 'AbuseSuspected' });
  });

  it('is left alone when it is revoked', () => given(story(active, revoke())).when(suspectAbuse()).thenNothing());
});

describe('Refused seats', () => {
  const { given, story } = scenarios(Denials, now);
  const count = (until: string) => ({ type: 'Count', denials: 3, machines: 2, limit: 1, used: 1, from: '2026-03-12T11:00:00.000Z', until }) as const;

  it('are told at once, and then once an hour at most', () => {
    given().when(count(now)).thenEvents({ ...count(now), type: 'ActivationsDenied' });
    const told = story(count(now));
    given(told).when(count('2026-03-12T12:59:59.999Z')).thenNothing();
    given(told).when(count('2026-03-12T13:00:00.000Z')).thenEvents({ type: 'ActivationsDenied' });
  });
});
