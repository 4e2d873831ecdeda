import type { License } from './license.ts';

/** The part of OpenFeature's ResolutionDetails that a license fills. */
export interface FlagDetails<T> {
  readonly value: T;
  /** STATIC: as the license says. DISABLED: it is licensed, but the license is locked. DEFAULT: the license does not name it. ERROR: its value is of another type. */
  readonly reason: 'STATIC' | 'DISABLED' | 'DEFAULT' | 'ERROR';
  readonly errorMessage?: string;
}

/**
 * For OpenFeature on a server: `OpenFeature.setProvider(new LicenseProvider(license))`. A feature is a boolean, and, if it has a limit, also that
 * number; any other flag is looked up in the license's `featureFlags`. A flag that the license does not name has the caller's default, which should
 * be `false` for a paid feature.
 */
export class LicenseProvider {
  readonly metadata = { name: 'keyledger' } as const;
  readonly runsOn = 'server' as const;
  readonly #license: Pick<License, 'info' | 'feature'>;

  constructor(license: Pick<License, 'info' | 'feature'>) {
    this.#license = license;
  }

  resolveBooleanEvaluation(flag: string, otherwise: boolean): Promise<FlagDetails<boolean>> {
    return Promise.resolve(this.#isFeature(flag) ? this.#enabled(flag, true, false) : this.#flag(flag, otherwise, (value) => typeof value === 'boolean'));
  }

  resolveNumberEvaluation(flag: string, otherwise: number): Promise<FlagDetails<number>> {
    if (!this.#isFeature(flag)) return Promise.resolve(this.#flag(flag, otherwise, (value) => typeof value === 'number'));
    const { limit } = this.#license.feature(flag);
    return Promise.resolve(limit === null ? mismatch(flag, otherwise) : this.#enabled(flag, limit, 0));
  }

  resolveStringEvaluation(flag: string, otherwise: string): Promise<FlagDetails<string>> {
    return Promise.resolve(this.#flag(flag, otherwise, (value) => typeof value === 'string'));
  }

  resolveObjectEvaluation<T>(flag: string, otherwise: T): Promise<FlagDetails<T>> {
    return Promise.resolve(this.#flag(flag, otherwise, (value) => typeof value === 'object' && value !== null));
  }

  #isFeature(name: string): boolean {
    return Object.hasOwn(this.#license.info?.features ?? {}, name);
  }

  #enabled<T>(name: string, value: T, locked: T): FlagDetails<T> {
    return this.#license.feature(name).enabled ? { value, reason: 'STATIC' } : { value: locked, reason: 'DISABLED' };
  }

  #flag<T>(name: string, otherwise: T, isOfType: (value: unknown) => boolean): FlagDetails<T> {
    if (this.#isFeature(name)) return mismatch(name, otherwise);
    const flags = this.#license.info?.featureFlags ?? {};
    if (!Object.hasOwn(flags, name)) return { value: otherwise, reason: 'DEFAULT' };
    return isOfType(flags[name]) ? { value: flags[name] as T, reason: 'STATIC' } : mismatch(name, otherwise);
  }
}

/** The code is in no type: OpenFeature declares an enum, and TypeScript takes no text for one of its members. */
function mismatch<T>(name: string, value: T): FlagDetails<T> {
  const error = { errorCode: 'TYPE_MISMATCH', errorMessage: `What the license says of "${name}" is of another type` };
  return { value, reason: 'ERROR', ...error };
}
