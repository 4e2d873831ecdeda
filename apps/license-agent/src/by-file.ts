import { enforcements, type Enforcement, type Judgement, type LicensedTerms } from '@keyledger/sdk';
import type { MeterAnswer } from './api.ts';

/**
 * The server's part, for a license by file without a server: the end of a trial that began here, the peak of a day that was above the quota, and
 * counters per day and month. Pure. Days are in UTC; instants are by the license's own clock.
 */

/**
 * A gauge: its highest reading of `day` and of the last day before it that had readings, and since when such days have been over the limit. Null: nothing was read.
 * `before`: the state before `lastDay`, if it was over the limit: more readings of that day may come, and then it is judged anew.
 */
export interface Metered {
  readonly day: string;
  readonly peak: number | null;
  readonly lastDay: string | null;
  readonly lastPeak: number | null;
  readonly exceededAt: string | null;
  readonly before: { readonly peak: number; readonly exceededAt: string } | null;
}

/** `at`: when it was taken, in milliseconds since 1970. */
interface TakenReading {
  readonly value: number;
  readonly at: number;
}

const dayMs = 86_400_000;
const dayOf = (ms: number): string => new Date(ms).toISOString().slice(0, 10);
const nothing = (now: number): Metered => ({ day: dayOf(now), peak: null, lastDay: null, lastPeak: null, exceededAt: null, before: null });

/** Reads the earlier format, where 0 also meant nothing read, the last day was the one before `day`, and `before` did not exist. */
export function lifted({ lastDay, before = null, ...kept }: Omit<Metered, 'lastDay' | 'before'> & Partial<Metered>): Metered {
  if (lastDay !== undefined) return { ...kept, lastDay, before };
  const [peak, lastPeak] = [kept.peak || null, kept.lastPeak || null];
  return { ...kept, peak, lastPeak, lastDay: lastPeak === null ? null : dayOf(Date.parse(kept.day) - dayMs), before };
}

/** Judged by its last known day that is over: since when it has been over the limit, from `since` on or for longer already. */
const judged = (metered: Metered, limit: number | null, since: number): Metered =>
  ({ ...metered, exceededAt: limit !== null && (metered.lastPeak ?? 0) > limit ? (metered.exceededAt ?? metered.before?.exceededAt ?? new Date(since).toISOString()) : null });

/** The same by a later day. */
const judgedBy = (day: string, peak: number, { lastPeak, exceededAt, ...metered }: Metered, limit: number | null, since: number): Metered =>
  judged({ ...metered, lastDay: day, lastPeak: peak, exceededAt: null, before: exceededAt === null ? null : { peak: lastPeak ?? 0, exceededAt } }, limit, since);

/** A higher limit clears it at once. */
function cleared(metered: Metered, limit: number | null): Metered {
  const { lastPeak, exceededAt, before } = metered;
  const fits = (peak: number | null) => limit === null || (peak ?? 0) <= limit;
  if (exceededAt !== null && fits(lastPeak)) return { ...metered, exceededAt: null, before: null };
  return before && fits(before.peak) ? { ...metered, before: null } : metered;
}

/** If midnight has passed, compares the day that is over, as of its end. A day without readings decides nothing; else a product over its limit could just stop reporting. */
export function compared(metered: Metered | undefined, limit: number | null, now: number): Metered {
  const known = cleared(metered ?? nothing(now), limit);
  const { day, peak } = known;
  if (day >= dayOf(now)) return known;
  const today = { ...known, day: dayOf(now), peak: null };
  return peak === null ? today : judgedBy(day, peak, today, limit, Date.parse(day) + dayMs);
}

/** A late reading is compared as of its arrival, unless a later day has been compared already. */
export function withReading(metered: Metered | undefined, { value, at }: TakenReading, limit: number | null, now: number): Metered {
  const today = compared(metered, limit, now);
  const { peak, lastDay, lastPeak } = today;
  const day = dayOf(at);
  if (day >= dayOf(now)) return { ...today, peak: Math.max(value, peak ?? 0) };
  if (lastDay !== null && day < lastDay) return today;
  return day === lastDay ? judged({ ...today, lastPeak: Math.max(value, lastPeak ?? 0) }, limit, now) : judgedBy(day, value, today, limit, now);
}

/** A higher limit clears it at once, a lower peak at the next midnight. */
export function meterByFile(meter: string, limit: number, metered: Metered | undefined, overageGraceDays: number, now: number): MeterAnswer {
  const { peak, lastPeak, exceededAt } = compared(metered, limit, now);
  const used = metered ? Math.max(peak ?? 0, lastPeak ?? 0) : null;
  return { meter, limit, used, remaining: used === null ? null : Math.max(0, limit - used), per: null, lastPeak, ...standingOf(exceededAt, overageGraceDays, now) };
}

function standingOf(exceededAt: string | null, overageGraceDays: number, now: number): Pick<MeterAnswer, 'state' | 'graceEndsAt'> {
  if (exceededAt === null) return { state: 'normal', graceEndsAt: null };
  const ends = Date.parse(exceededAt) + overageGraceDays * dayMs;
  return ends > now ? { state: 'exceeded', graceEndsAt: new Date(ends).toISOString() } : { state: 'restricted', graceEndsAt: null };
}

/** A counter: the sums of the days that still matter, by day, and since when it has been over the limit. */
export interface Counted {
  readonly days: Readonly<Record<string, number>>;
  readonly exceededAt: string | null;
}

/** `limit` null: exceeding it has no effect here. The product itself enforces a cap of a feature. */
export interface Cap {
  readonly limit: number | null;
  readonly per: 'day' | 'month';
}

const monthOf = (day: string): string => day.slice(0, 7);
const million = 1_000_000;

/** The sum of the day, or of its month up to and with the day. */
function sumOf(days: Counted['days'], per: Cap['per'], last: string): number {
  const counts = (day: string) => day === last || (per === 'month' && day < last && monthOf(day) === monthOf(last));
  return Object.entries(days).reduce((sum, [day, value]) => (counts(day) ? sum + Math.round(value * million) : sum), 0) / million;
}

/** The sum until the last midnight is compared: that of the day, or of its month so far. */
export function countedUntil(counted: Counted | undefined, { limit, per }: Cap, now: number): Counted {
  const [today, yesterday] = [dayOf(now), dayOf(now - dayMs)];
  const days = Object.fromEntries(Object.entries(counted?.days ?? {}).filter(([day]) => monthOf(day) >= monthOf(yesterday)));
  const isOver = limit !== null && sumOf(days, per, yesterday) > limit;
  return { days, exceededAt: isOver ? (counted?.exceededAt ?? `${today}T00:00:00.000Z`) : null };
}

export function withCount(counted: Counted | undefined, { value, at }: TakenReading, cap: Cap, now: number): Counted {
  const { days = {}, exceededAt = null } = counted ?? {};
  const day = dayOf(at);
  return countedUntil({ days: { ...days, [day]: (days[day] ?? 0) + value }, exceededAt }, cap, now);
}

/** `limit`: the one shown. */
export function counterByFile(meter: string, limit: number, cap: Cap, counted: Counted | undefined, overageGraceDays: number, now: number): MeterAnswer {
  const { days, exceededAt } = countedUntil(counted, cap, now);
  const used = sumOf(days, cap.per, dayOf(now));
  const lastPeak = cap.limit === null ? null : sumOf(days, cap.per, dayOf(now - dayMs)) || null;
  return { meter, limit, used, remaining: Math.max(0, limit - used), per: cap.per, lastPeak, ...standingOf(exceededAt, overageGraceDays, now) };
}

/** No trial is longer, whatever was signed. */
const mostTrialDays = 90;

/** When the license expires: at its date, or at the end of its trial, which began when it was first installed here. Milliseconds; null: never. */
export function expiryByFile({ expiresAt, trial }: Pick<LicensedTerms, 'expiresAt' | 'trial'>, firstSeen: string | undefined, now: number): number | null {
  const own = expiresAt === null ? Infinity : Date.parse(expiresAt);
  const trialEnds = trial ? (firstSeen === undefined ? now : Math.min(Date.parse(firstSeen), now)) + Math.min(trial.days, mostTrialDays) * dayMs : Infinity;
  const earliest = Math.min(own, trialEnds);
  return earliest === Infinity ? null : earliest;
}

/** In order of precedence, after all other findings of the SDK. */
const own = {
  EXPIRED: 'License Expired', PRODUCT_MISMATCH: 'The license is for another product', DEPLOYMENT_MODE_MISMATCH: 'The license is for another deployment mode',
  DEPLOYMENT_MISMATCH: 'The license is for another deployment', RESTRICTED: 'Over quota for longer than the grace: read only', QUOTA_EXCEEDED: 'Over quota; within the grace', IN_EXPIRY_GRACE: 'Expired; within the grace',
} as const;
/** Findings of the SDK, reworded for a license without a server. */
const told: Readonly<Record<string, string>> = {
  IN_OFFLINE_GRACE: 'No license server is asked: the license file is good for its offline grace', HEARTBEAT_OVERDUE: 'The license file is too old: its offline grace is over',
};
const order: readonly string[] = Object.keys(own);
const rank = (code: string): number => (code === 'IN_OFFLINE_GRACE' ? order.length : order.indexOf(code));

type Misplaced = 'PRODUCT_MISMATCH' | 'DEPLOYMENT_MODE_MISMATCH' | 'DEPLOYMENT_MISMATCH';
type Placed = Pick<LicensedTerms, 'productId' | 'deploymentMode' | 'deploymentId'>;

/** Why the license is not for here, as a server judges it. What is not configured is not compared. */
export function misplacedFor(terms: Placed, here: { readonly product: string | undefined; readonly deploymentMode: string | undefined; readonly deploymentId: string | undefined }): Misplaced[] {
  const differs = (licensed: string | null, own: string | undefined) => licensed !== null && own !== undefined && licensed !== own;
  return [
    ...(differs(terms.productId, here.product) ? ['PRODUCT_MISMATCH' as const] : []),
    ...(differs(terms.deploymentMode, here.deploymentMode) ? ['DEPLOYMENT_MODE_MISMATCH' as const] : []),
    ...(differs(terms.deploymentId, here.deploymentId) ? ['DEPLOYMENT_MISMATCH' as const] : []),
  ];
}

/** The judgement of the SDK, made stricter by the findings here. */
export function judgedByFile(judgement: Judgement, terms: LicensedTerms, firstSeen: string | undefined, meters: readonly MeterAnswer[], misplaced: readonly Misplaced[] = []): Judgement {
  const now = Date.parse(judgement.at);
  const expires = expiryByFile(terms, firstSeen, now);
  const graceEnds = expires === null ? Infinity : expires + terms.expiryGraceDays * dayMs;
  const found = new Map<keyof typeof own, readonly [Enforcement, graceEnds: number | null]>();
  if (graceEnds <= now) found.set('EXPIRED', [terms.expiredEnforcement, null]);
  else if (expires !== null && expires <= now) found.set('IN_EXPIRY_GRACE', ['WARN', graceEnds]);
  for (const code of misplaced) found.set(code, ['LOCKED', null]);
  if (meters.some(({ state }) => state === 'restricted')) found.set('RESTRICTED', ['READ_ONLY', null]);
  const exceeded = meters.flatMap(({ state, graceEndsAt }) => (state === 'exceeded' && graceEndsAt !== null ? [Date.parse(graceEndsAt)] : []));
  if (exceeded.length > 0) found.set('QUOTA_EXCEEDED', ['WARN', Math.min(...exceeded)]);

  const expiry = { expiresAt: expires === null ? null : new Date(expires).toISOString(), daysRemaining: expires === null ? null : Math.max(0, Math.ceil((expires - now) / dayMs)) };
  if (found.size === 0) return { ...judgement, ...expiry, detail: told[judgement.code] ?? judgement.detail };
  const reasons = [...new Set([...judgement.reasons.filter((code) => code !== 'IN_EXPIRY_GRACE' || !found.has('EXPIRED')), ...found.keys()])].sort((a, b) => rank(a) - rank(b));
  const [code = 'VALID'] = reasons;
  const enforcement = enforcements[Math.max(enforcements.indexOf(judgement.enforcement), ...[...found.values()].map(([enforcement]) => enforcements.indexOf(enforcement)))] ?? 'LOCKED';
  const graces = [judgement.graceUntil === null ? null : Date.parse(judgement.graceUntil), ...[...found.values()].map(([, ends]) => ends)].filter((ends) => ends !== null);
  return {
    ...judgement, ...expiry, code, reasons, enforcement, detail: told[code] ?? (code === judgement.code ? judgement.detail : (own[code as keyof typeof own] ?? judgement.detail)),
    valid: judgement.valid && !found.has('EXPIRED') && misplaced.length === 0, graceUntil: graces.length > 0 ? new Date(Math.min(...graces)).toISOString() : null,
    state: enforcement === 'LOCKED' ? 'locked' : enforcement === 'READ_ONLY' ? 'restricted' : graces.length > 0 ? 'grace' : 'active',
  } as Judgement;
}
