import { addSeconds, malformed, type Aggregate, type Instant } from '@keyledger/kernel';

/** What a license that is handed around looks like: how often in which time. */
export const abusePatterns = {
  /** New seats taken. */
  activationsPerHour: { seconds: 3_600, what: 'activations within an hour' },
  /** Different machines that took a seat: who shares a key gives the seat back, and another takes it. */
  machinesPerDay: { seconds: 86_400, what: 'different machines within a day' },
  /** Different networks that seats were taken from. */
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

/** The rules of an environment. None to begin with: nobody is suspended by a rule that nobody has made. */
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

/** A machine somewhere took a seat; `revision`: of the event in the license's stream that says so. */
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
 * What the rules find in what has been seen (by revision) up to now. What was held against the license before is not held against it again:
 * `heldAgainst` is the last revision of that, by pattern. Not its instant, because what was taken before may be seen after.
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
 * Refused seats of one license, for whoever wants to be told. A stream of its own: a request that is refused changes nothing of the license.
 * `machines`: how many different ones asked. `used` of `limit` seats were taken.
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
  /** The first at once, then what has come together in an hour: whoever tries in vain all day does not fill the log. */
  decide: ({ until }, command) => (until !== null && command.until < addSeconds(until, 3_600) ? [] : [{ ...command, type: 'ActivationsDenied' }]),
  evolve: (_state, { until }) => ({ until }),
};
