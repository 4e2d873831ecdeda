import type { FeatureState, LicenseInfo, QuotaState } from './info.ts';

/** A reading as the server takes it: its id counts once, ever, so that sending it again does no harm. */
export interface UsageRecord {
  readonly id: string;
  readonly meter: string;
  readonly value: number;
  readonly at: string;
}

/** A reading that the server has answered for. */
export type SentRecord = UsageRecord & {
  /** Milliseconds since 1970. */
  readonly sentAt: number;
  /** A verdict that was asked for later has counted it. */
  readonly isKnown?: boolean;
};

/** What the license says about a feature, which is not enabled while the license is locked. */
export interface Feature {
  readonly name: string;
  readonly enabled: boolean;
  /** Null: without a limit, or not included. */
  readonly limit: number | null;
  readonly per: 'day' | 'month' | null;
  readonly used: number | null;
  readonly remaining: number | null;
}

export interface Quota {
  readonly name: string;
  /** Null: the license sets none. */
  readonly limit: number | null;
  readonly per: 'day' | 'month' | null;
  /** As far as this instance knows: what the server has counted, and its own use since. */
  readonly used: number | null;
  readonly remaining: number | null;
  readonly state: 'normal' | 'exceeded' | 'restricted';
  readonly graceUntil: string | null;
}

export function featureOf(info: LicenseInfo | null, name: string, isLocked: boolean, counted: Counted): Feature {
  const feature = info && Object.hasOwn(info.features, name) ? info.features[name] : undefined;
  const enabled = feature !== undefined && !isLocked;
  if (typeof feature !== 'object') return { name, enabled, limit: typeof feature === 'number' ? feature : null, per: null, used: null, remaining: null };
  const used = usedOf(feature, name, counted);
  return { name, enabled, limit: feature.limit, per: feature.per, used, remaining: Math.max(0, feature.limit - used) };
}

export function quotaOf(info: LicenseInfo | null, name: string, counted: Counted): Quota {
  const quota: QuotaState | undefined = info?.quotas.find(({ meter }) => meter === name);
  if (!quota) {
    const { limit, per, used, remaining } = featureOf(info, name, false, counted);
    return { name, limit, per, used, remaining, state: 'normal', graceUntil: null };
  }
  const { limit, per = null, state = 'normal', graceEndsAt = null } = quota;
  // A gauge is worth what it shows; of a counter only this instance's own use is known.
  const used = per ? sumOf(counted, name, per) : (shownBy(counted, name) ?? quota.lastPeak ?? null);
  return { name, limit, per, used, remaining: used === null ? null : Math.max(0, limit - used), state, graceUntil: graceEndsAt };
}

/** Readings of this instance, the time of the last verdict, and the time now; ISO. */
export interface Counted {
  readonly records: readonly (UsageRecord & Partial<SentRecord>)[];
  readonly since: string | null;
  readonly now: string;
}

function usedOf(feature: Extract<FeatureState, object>, name: string, { records, since, now }: Counted): number {
  const known = 'used' in feature && since !== null && periodOf(since, feature.per) === periodOf(now, feature.per) ? (feature.used ?? 0) : 0;
  return known + sumOf({ records: records.filter(({ isKnown }) => !isKnown), now }, name, feature.per);
}

const sumOf = ({ records, now }: Pick<Counted, 'records' | 'now'>, name: string, per: 'day' | 'month'): number =>
  records.reduce((sum, { meter, value, at }) => (meter === name && periodOf(at, per) === periodOf(now, per) ? sum + value : sum), 0);

const shownBy = ({ records }: Pick<Counted, 'records'>, name: string): number | undefined => records.findLast(({ meter }) => meter === name)?.value;

/** In UTC, as the server counts. */
const periodOf = (at: string, per: 'day' | 'month'): string => at.slice(0, per === 'day' ? 10 : 7);

/** The jsdom of a test, which fakes a license, has no `randomUUID`. */
export const newId = (): string => (crypto as Partial<typeof crypto>).randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join('-');

/** The reading for `amount` more: of a counter that much, of a gauge a higher value. Whether that is too much, as far as this instance knows. */
export function consumed(info: LicenseInfo | null, name: string, amount: number, counted: Counted): { readonly value: number; readonly isGauge: boolean; readonly isTooMuch: boolean } {
  const { limit, remaining } = quotaOf(info, name, counted);
  const isGauge = cappedBy(info, name)?.per === null;
  // The peak of the whole license yesterday is not what this instance has in use.
  const value = isGauge ? Math.max(0, (shownBy(counted, name) ?? 0) + amount) : amount;
  return { value, isGauge, isTooMuch: limit !== null && (isGauge ? value > limit : (remaining ?? limit) < amount) };
}

// ---- what is kept of it ----

/** The cap of a meter, if any: a counter, which starts anew each period and which verdicts may tell; or a gauge, which is its last reading (`per` is null). */
function cappedBy(info: LicenseInfo | null, name: string): { readonly per: 'day' | 'month' | null; readonly isTold: boolean } | undefined {
  const quota = info?.quotas.find(({ meter }) => meter === name);
  if (quota) return { per: quota.per ?? null, isTold: false };
  const feature = info && Object.hasOwn(info.features, name) ? info.features[name] : undefined;
  return typeof feature === 'object' ? { per: feature.per, isTold: true } : undefined;
}

/** Readings of a minute become one: of a counter their sum, of a gauge its highest and its last. To bound the list, those of a day do when very many wait. */
const stretches = { minute: 16, day: 10 } as const;

/** The list with one more reading. `open`: the ids of those that were not sent yet; no others may change. */
export function noted(outbox: readonly UsageRecord[], open: ReadonlySet<string>, record: UsageRecord, { isGauge, stretch }: { readonly isGauge: boolean; readonly stretch: keyof typeof stretches }): readonly UsageRecord[] {
  const begins = record.at.slice(0, stretches[stretch]);
  const [first, second] = outbox.filter(({ id, meter, at }) => meter === record.meter && at.startsWith(begins) && open.has(id)).slice(-2);
  const changed = (changes: readonly (readonly [UsageRecord, Partial<UsageRecord>])[]) => outbox.map((one) => {
    const change = changes.find(([it]) => it === one)?.[1];
    return change ? { ...one, ...change, id: one.id } : one;
  });
  if (!first) return [...outbox, record];
  if (!isGauge) return changed([[first, { value: first.value + record.value }]]);
  if (!second) return record.value >= first.value ? changed([[first, record]]) : [...outbox, record];
  return changed([[first, first.value > second.value ? first : second], [second, record]]);
}

/** After the time was put back: readings dated in the future were made just now, one after the other. `dated`: ids of those that the software has dated itself. */
export function redated(outbox: readonly UsageRecord[], dated: ReadonlySet<string>, now: number): readonly UsageRecord[] {
  const isEarly = ({ id, at }: UsageRecord) => Date.parse(at) > now && !dated.has(id);
  let after = outbox.filter(isEarly).length;
  return after === 0 ? outbox : outbox.map((record) => (isEarly(record) ? { ...record, at: new Date(now - --after).toISOString() } : record));
}

/** The server takes bodies of 256 KiB. */
const mostBytes = 200 * 1024;

/** The oldest records that fit into one request. */
export function batchOf(records: readonly UsageRecord[], most: number): readonly UsageRecord[] {
  let bytes = 0;
  // A blob counts the bytes also in the jsdom of a test, which has no `TextEncoder`.
  const end = records.slice(0, most).findIndex((record) => (bytes += new Blob([JSON.stringify(record)]).size + 1) > mostBytes);
  return records.slice(0, end < 0 ? most : Math.max(1, end));
}

/** For so long the ids of sent readings are kept, so that a reading that the software brings again is not counted here again. */
const freshMs = 300_000;
const mostFresh = 10_000;

/** The sent readings that still tell how much is left: a sum per counter in its period, the last reading of each gauge. And all fresh ones. */
export function remembered(sent: readonly SentRecord[], info: LicenseInfo | null, now: number): SentRecord[] {
  const kept = new Map<string, SentRecord>();
  for (const record of sent) {
    const { id, meter, at, value, isKnown = false, sentAt } = record;
    const cap = cappedBy(info, meter);
    if (sent.length <= mostFresh && Math.abs(now - sentAt) < freshMs) kept.set(`id ${id}`, record);
    else if (cap?.per === null) {
      kept.delete(`gauge ${meter}`);
      kept.set(`gauge ${meter}`, record);
    } else if (cap && periodOf(at, cap.per) === periodOf(new Date(now).toISOString(), cap.per) && !(cap.isTold && isKnown)) {
      const key = `${isKnown} ${meter}`;
      kept.set(key, { ...record, value: (kept.get(key)?.value ?? 0) + value });
    }
  }
  return [...kept.values()];
}
