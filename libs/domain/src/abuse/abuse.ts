import { addSeconds, malformed, type Aggregate, type Instant } from '@keyledger/kernel';

/** Patterns of a shared license: what is counted, and in which time. */
export const abusePatterns = {
  /** New seats taken. */
  activationsPerHour: { seconds: 3_600, what: 'activations within an hour' },
  /** Different machines that took a seat: with a shared key one machine gives the seat back, and another takes it. */
  machinesPerDay: { seconds: 86_400, what: 'different machines within a day' },
  /** Different networks from which seats were taken. */
  addressesPerDay: { seconds: 86_400, what: 'different addresses within a day' },
} as const;
export type AbusePattern = keyof typeof abusePatterns;
export const abuseActions = ['alert', 'suspend'] as const;
export type AbuseAction = (typeof abuseActions)[number];
/** More than `limit` is too many. */
export interface AbuseRule {
  readonly pattern: AbusePattern;
  readonly limit: number;
  readonly action: AbuseAction;
}

/** The rules of an environment. None at first: no license is suspended by a rule the vendor has not made. */
export type AbuseRulesState = readonly AbuseRule[];
export type AbuseRulesCommand = Readonly<{ type: 'Set'; rules: readonly AbuseRule[] }>;
export type AbuseRulesEvent = Readonly<{ type: 'AbuseRulesSet'; rules: readonly AbuseRule[] }>;
export const AbuseRules: Aggregate<AbuseRulesState, AbuseRulesCommand, AbuseRulesEvent> = {
  category: 'abuse',
  stateVersion: 1,
  shapes: { AbuseRulesSet: { schema: 1 } },
  initial: () => [],
  decide(state, { rules }) {
    const wanted = inOrder(rules);
    if (wanted.length < rules.length) throw malformed('rules', 'has two rules for the same pattern');
    return JSON.stringify(wanted) === JSON.stringify(state) ? [] : [{ type: 'AbuseRulesSet', rules: wanted }];
  },
  evolve: (_state, { rules }) => rules,
};
const inOrder = (rules: readonly AbuseRule[]): readonly AbuseRule[] =>
  Object.keys(abusePatterns).flatMap((pattern) => rules.filter((rule) => rule.pattern === pattern).slice(0, 1).map(({ limit, action }) => ({ pattern: pattern as AbusePattern, limit, action })));

/** A machine took a seat; `revision`: that of the event in the license's stream. */
export interface Sighting {
  readonly at: Instant;
  readonly machine: string;
  readonly address: string;
  readonly revision: number;
}

export interface Finding extends AbuseRule {
  readonly observed: number;
  readonly from: Instant;
  readonly until: Instant;
  /** Revisions in the license's own stream, oldest first; the last hundred. */
  readonly evidence: readonly number[];
}

const evidenceAtMost = 100;

/**
 * Applies the rules to the sightings (by revision) up to now. Evidence held against the license before is not held against it again:
 * `heldAgainst` is its last revision, by pattern. Not its instant, because an earlier seat may be seen later.
 */
export function findingsIn(rules: readonly AbuseRule[], sightings: readonly Sighting[], heldAgainst: ReadonlyMap<string, number>, now: Instant): readonly Finding[] {
  return rules.flatMap((rule) => {
    const from = addSeconds(now, -abusePatterns[rule.pattern].seconds);
    const held = heldAgainst.get(rule.pattern) ?? -1;
    const seen = sightings.filter(({ at, revision }) => at > from && revision > held);
    const observed = observedOf(rule.pattern, seen);
    if (observed <= rule.limit) return [];
    return [{ ...rule, observed, from: seen[0]?.at ?? from, until: now, evidence: seen.map(({ revision }) => revision).slice(-evidenceAtMost) }];
  });
}

function observedOf(pattern: AbusePattern, seen: readonly Sighting[]): number {
  switch (pattern) {
    case 'activationsPerHour': return seen.length;
    case 'machinesPerDay': return new Set(seen.map(({ machine }) => machine)).size;
    case 'addressesPerDay': return new Set(seen.map(({ address }) => address)).size;
  }
}

/**
 * Refused seats of one license, for subscribers of this event. A stream of its own: a refused request does not change the license.
 * `machines`: the number of different ones that asked. `used` of `limit` seats were taken.
 */
export interface DenialsState {
  readonly until: Instant | null;
}
export type DenialsCommand = Readonly<{ type: 'Count'; denials: number; machines: number; limit: number; used: number; from: Instant; until: Instant }>;
export type DenialsEvent = Readonly<Omit<DenialsCommand, 'type'> & { type: 'ActivationsDenied' }>;
export const Denials: Aggregate<DenialsState, DenialsCommand, DenialsEvent> = {
  category: 'denials',
  stateVersion: 1,
  shapes: { ActivationsDenied: { schema: 1 } },
  initial: () => ({ until: null }),
  /** The first at once, then once an hour: a client that tries in vain all day does not fill the log. */
  decide: ({ until }, command) => (until !== null && command.until < addSeconds(until, 3_600) ? [] : [{ ...command, type: 'ActivationsDenied' }]),
  evolve: (_state, { until }) => ({ until }),
};
