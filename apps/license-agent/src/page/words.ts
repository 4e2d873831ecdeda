/** The page's wording. Pure: instants and counts come in, text goes out, in the language and zone of the browser. */

const day = 86_400_000;
/** Icon, colour and text together show a state. */
export type Tone = 'ok' | 'info' | 'warn' | 'stop' | 'none';

export const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
/** `max_api_calls` → "Max API calls". */
export const plain = (name: string): string =>
  capital(name.replaceAll(/[_.-]+/g, ' ').replaceAll(/([a-z])([A-Z])/g, '$1 $2').trim().replaceAll(/\b(api|sso|saml|ldap|sla|cpu|gpu|ip|id|url|vm)(s?)\b/gi, (_, short: string, many: string) => short.toUpperCase() + many)) || name;
/** Values by label. If a label is taken, the value's own name is appended. */
export function labelled<T>(values: Iterable<readonly [string, T]>, labelOf: (name: string) => string): Map<string, T> {
  const labels = new Map<string, T>();
  for (const [name, value] of values) {
    const label = labelOf(name);
    labels.set(labels.has(label) ? `${label} (${name})` : label, value);
  }
  return labels;
}

export const number = (value: number): string => new Intl.NumberFormat().format(value);
export const count = (value: number, one: string): string => `${number(value)} ${one}${value === 1 ? '' : 's'}`;

export const date = (instant: string): string => new Intl.DateTimeFormat(undefined, { dateStyle: 'long' }).format(new Date(instant));
export const time = (instant: string): string => new Intl.DateTimeFormat(undefined, { timeStyle: 'long' }).format(new Date(instant));
export const moment = (instant: string): string => new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' }).format(new Date(instant));

/** Whole days until then, at least 0. */
export const daysUntil = (instant: string, now: string): number => Math.max(0, Math.ceil((Date.parse(instant) - Date.parse(now)) / day));

const units = [['day', day], ['hour', 3_600_000], ['minute', 60_000], ['second', 1000]] as const;

/** "3 hours ago". */
export function age(instant: string, now: string): string {
  const ms = Math.max(0, Date.parse(now) - Date.parse(instant));
  const [unit, size] = units.find(([, size]) => ms >= size) ?? units[3];
  return new Intl.RelativeTimeFormat(undefined, { numeric: 'always' }).format(-Math.floor(ms / size), unit);
}
