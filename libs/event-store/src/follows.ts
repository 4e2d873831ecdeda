import { categoryOf } from './codec.ts';
import type { Follows, RecordedEvent } from './port.ts';

/** What is followed of a log, by one subscriber or several; all of it when undefined. */
export type Interest = readonly Follows[] | undefined;

const covers = (one: Follows, other: Follows): boolean => one.category === other.category && (!one.bare || other.bare === true)
  && (!one.types || (other.types?.every((type) => one.types?.includes(type)) ?? false));

/** What either follows; the first when that is all. */
export function together(first: readonly Follows[], second: Interest): Interest {
  const more = second?.filter((follows) => !first.some((one) => covers(one, follows)));
  return more && (more.length > 0 ? [...first, ...more] : first);
}

/** Whether an event is of interest. */
export function matcher(interest: Interest): (event: Pick<RecordedEvent, 'stream' | 'type'>) => boolean {
  if (!interest) return () => true;
  const types = new Map<string, ReadonlySet<string> | undefined>();
  for (const { category, types: own } of interest) {
    const known = types.get(category);
    types.set(category, own && (known || !types.has(category)) ? new Set([...(known ?? []), ...own]) : undefined);
  }
  return ({ stream, type }) => {
    const category = categoryOf(stream);
    const wanted = types.get(category);
    return wanted ? wanted.has(type) : types.has(category);
  };
}
