import { Revalidate, ValidateLicense } from '@keyledger/contracts';
import { RecentChanges, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { MessageClient, ResultOf } from '@keyledger/messaging';
import type { Metrics } from '@keyledger/observability';
import { LRUCache } from 'lru-cache';
import { questionOf, type LastKnownVerdicts } from './last-known.ts';

/** Some 20,000 verdicts of the usual size. */
const charactersKept = 25_000_000;
const maxLicenses = 50_000;
/** A rush is spread over the processes of the activation service, which can begin while this one carries on. */
const togetherAtMost = 16;
/** How often a verdict that is repeated all the time is noted as the last known one. */
const notedEveryMs = 60_000;
/** After a question that was not answered: how long nothing is stored. */
const restMs = 10_000;

/** A verdict, written but for the time in it. */
interface Stored {
  /** Up to the time in the decision id, from there to `checkedAt`, and what follows. */
  readonly text: readonly [string, string, string];
  /** What follows the last-seen time of its instance. */
  readonly end: string | undefined;
  readonly code: string;
  readonly license: Known;
  readonly instance: ActivationId | undefined;
  /** It stands from one instant to the other, until the license changes. */
  readonly from: Instant;
  readonly until: Instant | null;
  /** By this process's clock, milliseconds. */
  notedAt: number;
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
  readonly #stored = new LRUCache<string, Stored>({ maxSize: charactersKept, sizeCalculation: (stored, question) => question.length + lengthOf(stored) });
  readonly #changes = new Map<string, LicenseChanges>();

  constructor(private readonly messages: MessageClient, private readonly metrics: Metrics, private readonly lastKnown: LastKnownVerdicts) {}

  /** The answer if one is stored and stands; undefined means: ask the activation service. Rejects when that does not answer. */
  repeated(environment: string, question: ValidateLicense): Promise<string | undefined> | undefined {
    if (question.nonce !== undefined) return undefined;
    const stored = this.#stored.get(questionOf(environment, question));
    if (!stored || stored.license.hasChanged) return undefined;
    return this.#changesIn(environment).next(stored).then((moment) => this.#repeat(environment, question, stored, moment));
  }

  /** Asks the activation service, and stores the answer if the question comes again and again. */
  async fresh(environment: string, question: ValidateLicense): Promise<string> {
    const changes = this.#changesIn(environment);
    if (question.nonce !== undefined || changes.areResting || !this.lastKnown.isRecent(environment, question, Date.now())) return this.messages.sendForText(ValidateLicense, question);
    const { step } = changes;
    const { stands, ...verdict } = await this.messages.send(ValidateLicense, { ...question, repeatable: true });
    const license = stands && verdict.license && changes.unchangedSince(step, verdict.license.id as LicenseId);
    if (license) this.#stored.set(questionOf(environment, question), storedFrom(verdict, license, stands.until as Instant | null));
    return JSON.stringify(verdict);
  }

  #changesIn(environment: string): LicenseChanges {
    let changes = this.#changes.get(environment);
    if (!changes) this.#changes.set(environment, (changes = new LicenseChanges(this.messages)));
    return changes;
  }

  #repeat(environment: string, question: ValidateLicense, stored: Stored, { now, inId }: Moment): string | undefined {
    const { license, from, until, text: [start, middle, rest], end } = stored;
    if (license.hasChanged || now < from || (until !== null && now >= until)) return undefined;
    this.metrics.decision(stored.code);
    const text = end === undefined ? `${start}${inId}${middle}${now}${rest}` : `${start}${inId}${middle}${now}${rest}${now}${end}`;
    const at = Date.now();
    if (at - stored.notedAt >= notedEveryMs) {
      stored.notedAt = at;
      this.lastKnown.keep(environment, question, text, at);
    }
    return text;
  }
}

/** The licenses of one environment whose verdicts are stored, and which of them have changed. */
class LicenseChanges {
  readonly #licenses = new LRUCache<LicenseId, Known>({ maxSize: maxLicenses, sizeCalculation: () => 1, dispose: (license) => { license.hasChanged = true; } });
  /** In the log, of the answer that came last. What has happened before it was told by then, or nothing is stored that is so old. */
  #position: number | null = null;
  /** Counts the answers. */
  step = 0;
  #recent = new RecentChanges<LicenseId>(0);
  #seen = new Map<ActivationId, LicenseId>();
  #gathering: { count: number; readonly answered: Promise<Moment>; readonly ask: () => void } | undefined;
  #restsUntil = -Infinity;

  constructor(private readonly messages: MessageClient) {}

  get areResting(): boolean {
    return performance.now() < this.#restsUntil;
  }

  /** Undefined if the license may have changed since that step. */
  unchangedSince(step: number, id: LicenseId): Known | undefined {
    if (this.#recent.since(step)?.has(id) ?? true) return undefined;
    let license = this.#licenses.get(id);
    if (!license) this.#licenses.set(id, (license = { id, hasChanged: false }));
    return license;
  }

  /** Asks which licenses have changed, from now on: an answer under way may not know what happened just now. */
  next({ license, instance }: Stored): Promise<Moment> {
    if (instance) this.#seen.set(instance, license.id);
    const gathering = (this.#gathering ??= this.#gather());
    if (++gathering.count === togetherAtMost) gathering.ask();
    return gathering.answered;
  }

  #gather() {
    const { promise: answered, resolve } = Promise.withResolvers<Moment>();
    const ask = () => {
      clearImmediate(atTheEnd);
      this.#gathering = undefined;
      resolve(this.#ask());
    };
    const atTheEnd = setImmediate(ask);
    return { count: 0, answered, ask };
  }

  async #ask(): Promise<Moment> {
    const seen = [...this.#seen].map(([activationId, licenseId]) => ({ licenseId, activationId }));
    this.#seen = new Map();
    try {
      const answer = await this.messages.send(Revalidate, { since: this.#position, seen });
      this.#learn(answer);
      return { now: answer.now as Instant, inId: Date.parse(answer.now).toString(36) };
    } catch (error) {
      this.#restsUntil = performance.now() + restMs;
      this.#forgetAll();
      throw error;
    }
  }

  #learn({ position, changed }: ResultOf<Revalidate>): void {
    this.#position = position;
    if (!changed) return this.#forgetAll();
    this.step++;
    for (const id of changed as LicenseId[]) {
      this.#licenses.delete(id);
      this.#recent.add(id, this.step);
    }
  }

  #forgetAll(): void {
    this.step++;
    this.#licenses.clear();
    this.#recent = new RecentChanges(this.step);
  }
}

const lengthOf = ({ text, end = '' }: Stored): number => text.reduce((sum, part) => sum + part.length, end.length);

/** In the order in which the activation service writes it. */
function storedFrom({ decisionId, seq, checkedAt, license, instance, ...judged }: ResultOf<ValidateLicense>, known: Known, until: Instant | null): Stored {
  const asked = decisionId.slice(decisionId.lastIndexOf('.'));
  const start = `${opened(judged)},"decisionId":"${known.id}.${seq}.`;
  const middle = `${asked}","seq":${seq},"checkedAt":"`;
  const ofLicense = `"license":${JSON.stringify(license)}}`;
  const rest = instance ? `","instance":${opened({ id: instance.id, name: instance.name })},"lastSeenAt":"` : `","instance":null,${ofLicense}`;
  return {
    text: [start, middle, rest], end: instance ? `"},${ofLicense}` : undefined, code: judged.code, license: known, instance: instance?.id as ActivationId | undefined, from: checkedAt as Instant, until,
    notedAt: Date.now(),
  };
}

/** An object that goes on. */
const opened = (object: object): string => JSON.stringify(object).slice(0, -1);
