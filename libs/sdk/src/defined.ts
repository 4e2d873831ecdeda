/** Without the members that are undefined: bodies and expectations name only what there is. */
export const defined = <T extends object>(members: T): Partial<T> => Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined)) as Partial<T>;
