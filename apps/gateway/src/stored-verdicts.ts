import { Revalidate, ValidateLicense } from '@keyledger/contracts';
import { RecentChanges, Refusal, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { MessageClient, ResultOf } from '@keyledger/messaging';
import type { Metrics } from '@keyledger/observability';
import { LRUCache } from 'lru-cache';
import type { LastKnownVerdicts } from './last-known.ts';

/** Some 20,000 verdicts of the usual size. */
const charactersKept = 25_000_000;
const maxLicenses = 50_000;
/** A question that comes again within this time is worth storing; what was learned about changes is good for as long. */
const recentMs = 5_000;
/** A rush is spread over the processes of the activation service, which can begin while this one carries on. */
const togetherAtMost = 16;
/** What is repeated more often than this is noted this often: as the last known verdict, and that who asked does not guess. */
const notedEveryMs = 1_000;

/** A verdict, written but for the time in it. */
interface Stored {
  /** Up to the time in its id, which is written otherwise. */
  readonly start: string;
  /** From there to the next time. */
  readonly middle: string;
  /** A time is before each of them. */
  readonly ends: readonly string[];
  readonly code: string;
  readonly license: Known;
  readonly instance: ActivationId | undefined;
  /** It stands from one instant to the other, until the license changes. */
  readonly from: Instant;
  readonly until: Instant | null;
  /** By this process's clock, milliseconds. */
  notedAt: number;
  /** The address that asked then. */
  notedOf: string;
}

interface Known {
  readonly id: LicenseId;
  hasChanged: boolean;
}

/** When a verdict is given, as it is written in one. */
interface Moment {
  readonly now: Instant;
  readonly inId: string;
}

/**
 * Verdicts that are asked for again and again, repeated by this process. Not one of them rests on its memory alone: before it is given, the activation
 * service says which licenses have changed, once for all questions that came in the same turn of the event loop. So a verdict shows every change that
 * was acknowledged before it was asked for, like one that is made anew.
 */
export class StoredVerdicts {
  /** By question: see `questionOf`. */
  readonly #stored = new LRUCache<string, Stored>({ maxSize: charactersKept, sizeCalculation: ({ start, middle, ends }, name) => [name, start, middle, ...ends].reduce((sum, { length }) => sum + length, 0) });
  readonly #changes = new Map<string, LicenseChanges>();

  constructor(private readonly messages: MessageClient, private readonly metrics: Metrics, private readonly lastKnown: LastKnownVerdicts) {}

  /**
   * The answer if one is stored and stands; undefined means: ask the activation service. Rejects with UNAVAILABLE when nobody answers. `right` is called
   * with the first answer to each address, and then now and again: to be told every time would cost more than the rest.
   */
  repeated(environment: string, name: string, { nonce }: ValidateLicense, address: string, right: () => void): Promise<string | undefined> | undefined {
    const stored = nonce === undefined ? this.#stored.peek(name) : undefined;
    if (!stored) return undefined;
    if (stored.license.hasChanged) return void this.#stored.delete(name);
    return this.#changesIn(environment).next(stored).then((moment) => {
      const text = this.#repeat(stored, moment);
      if (text !== undefined) this.#note(name, stored, text, address, right);
      return text;
    }, (error: unknown) => {
      if (error instanceof Refusal && error.code === 'UNAVAILABLE') throw error;
      // Who cannot say what has changed can still judge by what it knows.
      return undefined;
    });
  }

  /** Asks the activation service, and stores the answer if the question comes again and again. */
  async fresh(environment: string, name: string, question: ValidateLicense): Promise<string> {
    const changes = this.#changesIn(environment);
    const isRecent = Date.now() - (this.lastKnown.keptAt(name) ?? -Infinity) < recentMs;
    if (question.nonce !== undefined || !isRecent) return this.messages.sendForText(ValidateLicense, question);
    const { step } = changes;
    const text = await this.messages.sendForText(ValidateLicense, { ...question, repeatable: true });
    // Its last member, and passed on as it is. In a text before it these characters would be escaped.
    const ofLicense = text.indexOf(',"license":{');
    if (ofLicense === -1) return text;
    const { stands, ...verdict } = JSON.parse(`${text.slice(0, ofLicense)}}`) as Omit<ResultOf<ValidateLicense>, 'license'>;
    if (!stands) return text;
    // A copy: a part of the text would keep all of the message that it came in.
    const license = Buffer.from(text.slice(ofLicense)).toString();
    const known = changes.unchangedSince(step, verdict.decisionId.slice(0, verdict.decisionId.indexOf('.')) as LicenseId);
    if (known) this.#stored.set(name, storedFrom(verdict, license, known, stands.until as Instant | null));
    return opened(verdict) + license;
  }

  #changesIn(environment: string): LicenseChanges {
    let changes = this.#changes.get(environment);
    if (!changes) this.#changes.set(environment, (changes = new LicenseChanges(this.messages)));
    return changes;
  }

  #repeat({ code, license, from, until, start, middle, ends }: Stored, { now, inId }: Moment): string | undefined {
    if (license.hasChanged || now < from || (until !== null && now >= until)) return undefined;
    this.metrics.decision(code);
    let text = start + inId + middle;
    for (const end of ends) text += now + end;
    return text;
  }

  #note(name: string, stored: Stored, text: string, address: string, right: () => void): void {
    const at = Date.now();
    if (at - stored.notedAt < notedEveryMs && stored.notedOf === address) return;
    stored.notedAt = at;
    stored.notedOf = address;
    // As one of those that are asked for now.
    this.#stored.get(name);
    this.lastKnown.keep(name, text, at);
    right();
  }
}

/** The licenses of one environment whose verdicts are stored, and which of them have changed. */
class LicenseChanges {
  readonly #licenses = new LRUCache<LicenseId, Known>({ maxSize: maxLicenses, sizeCalculation: () => 1, dispose: (license) => { license.hasChanged = true; } });
  /** In the log, of the answer that came last. What has happened before it was told by then, or nothing is stored that is so old. */
  #position: number | null = null;
  #learnedAt = -Infinity;
  /** Counts the answers. */
  step = 0;
  #recent = new RecentChanges<LicenseId>(0);
  #gathering: { count: number; readonly seen: Map<ActivationId, LicenseId>; readonly answered: Promise<Moment>; readonly ask: () => void } | undefined;

  constructor(private readonly messages: MessageClient) {}

  /** Undefined if the license may have changed since that step. */
  unchangedSince(step: number, id: LicenseId): Known | undefined {
    if (this.#recent.since(step)?.has(id) ?? true) return undefined;
    let license = this.#licenses.get(id);
    if (!license) this.#licenses.set(id, (license = { id, hasChanged: false }));
    return license;
  }

  /** Asks which licenses have changed, from now on: an answer under way may not know what happened just now. */
  next({ license, instance }: Stored): Promise<Moment> {
    const gathering = (this.#gathering ??= this.#gather());
    if (instance) gathering.seen.set(instance, license.id);
    if (++gathering.count === togetherAtMost) gathering.ask();
    return gathering.answered;
  }

  #gather() {
    const { promise: answered, resolve } = Promise.withResolvers<Moment>();
    const seen = new Map<ActivationId, LicenseId>();
    const ask = () => {
      clearImmediate(atTheEnd);
      this.#gathering = undefined;
      resolve(this.#ask(seen));
    };
    const atTheEnd = setImmediate(ask);
    return { count: 0, seen, answered, ask };
  }

  async #ask(seen: ReadonlyMap<ActivationId, LicenseId>): Promise<Moment> {
    // A log that was replaced, by a standby or a backup, may have gone beyond an older position without telling.
    const since = Date.now() - this.#learnedAt < recentMs ? this.#position : null;
    try {
      const answer = await this.messages.send(Revalidate, { since, seen: [...seen].map(([activationId, licenseId]) => ({ licenseId, activationId })) });
      this.#learn(answer);
      return { now: answer.now as Instant, inId: Date.parse(answer.now).toString(36) };
    } catch (error) {
      this.#forgetAll();
      throw error;
    }
  }

  #learn({ position, changed }: ResultOf<Revalidate>): void {
    if (!changed) this.#forgetAll();
    else {
      this.step++;
      for (const id of changed as LicenseId[]) {
        this.#licenses.delete(id);
        this.#recent.add(id, this.step);
      }
    }
    this.#position = position;
    this.#learnedAt = Date.now();
  }

  #forgetAll(): void {
    this.#position = null;
    this.step++;
    this.#licenses.clear();
    this.#recent = new RecentChanges(this.step);
  }
}

/** `license` is the rest of the text. The members come in the order in which the activation service writes them. */
function storedFrom({ decisionId, seq, checkedAt, instance, ...judged }: Omit<ResultOf<ValidateLicense>, 'license' | 'stands'>, license: string, known: Known, until: Instant | null): Stored {
  const asked = decisionId.slice(decisionId.lastIndexOf('.'));
  const middle = `${asked}","seq":${seq},"checkedAt":"`;
  return {
    start: `${opened(judged)},"decisionId":"${known.id}.${seq}.`, middle,
    ends: instance ? [`","instance":${opened({ id: instance.id, name: instance.name })},"lastSeenAt":"`, `"}${license}`] : [`","instance":null${license}`],
    code: judged.code, license: known, instance: instance?.id as ActivationId | undefined, from: checkedAt as Instant, until, notedAt: -Infinity, notedOf: '',
  };
}

/** An object that goes on. */
const opened = (object: object): string => JSON.stringify(object).slice(0, -1);
