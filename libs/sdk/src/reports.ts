import type { Answers } from './answers.ts';
import type { Logger } from './api.ts';
import type { LicenseInfo } from './info.ts';
import type { Kept } from './kept.ts';
import { noServer, notActivated, notStored, tooManyWaiting, untrusted, type Refusal } from './refusal.ts';
import type { Reply } from './server.ts';
import { batchOf, newId, noted, redated, remembered, type UsageRecord } from './usage.ts';

export type SendReadings = (instanceId: string, records: readonly UsageRecord[]) => Promise<Reply>;

/** What reports need of their license. Times are by its own reckoning, in milliseconds since 1970. */
interface Port {
  readonly logger: Logger | undefined;
  readonly answers: Answers;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  persist(): Promise<boolean>;
  now(): number;
  info(): LicenseInfo | null;
  /** Undefined without a server. */
  readonly send: SendReadings | undefined;
  /** An instance that has lost a floating seat takes another one, and then reports what it used meanwhile. */
  waitsForSeat(): boolean;
}

export type Reported = { readonly ok: true; readonly accepted: number } | Refusal;

/** Readings. */
const mostWaiting = 10_000;

/** Usage on its way to the server: readings wait in the store until the server has answered for them, and count here for as long as they matter. */
export class Reports {
  readonly #port: Port;
  /** Ids of this process's readings that were not sent yet: they may still grow. */
  readonly #open = new Set<string>();
  /** Ids of readings that the software itself has dated. Those of another process are not known: they count as of now rather than be refused. */
  readonly #dated = new Set<string>();
  /** The server takes no more, and a proxy may take less. */
  #mostAtOnce = 1000;
  #sending: Promise<unknown> = Promise.resolve();
  #next: Promise<Reported> | undefined;

  constructor(port: Port) {
    this.#port = port;
  }

  /** Nothing is lost, however long the server is away. Throws `RangeError` for a value that cannot be counted. */
  use(meter: string, value: number, isGauge: boolean): void {
    mustCount(meter, value);
    const { outbox } = this.#port.kept();
    const record: UsageRecord = { id: newId(), meter, value, at: new Date(this.#port.now()).toISOString() };
    const next = noted(outbox, this.#open, record, { isGauge, stretch: outbox.length < mostWaiting ? 'minute' : 'day' });
    if (next.at(-1) === record) this.#open.add(record.id);
    this.#port.keep({ outbox: next });
    void this.#port.persist();
  }

  /** Stores all of them, or none. Rejects with `RangeError` for a value that cannot be counted. */
  async take(readings: readonly (Omit<UsageRecord, 'id' | 'at'> & Partial<UsageRecord>)[]): Promise<{ readonly ok: true; readonly accepted: number; readonly duplicates: number } | Refusal> {
    for (const { meter, value } of readings) mustCount(meter, value);
    const { outbox, sent } = this.#port.kept();
    const known = new Set([...outbox, ...sent].map(({ id }) => id));
    const now = new Date(this.#port.now()).toISOString();
    const news = readings.map(({ id = newId(), meter, value, at = now }): UsageRecord => ({ id, meter, value, at })).filter(({ id }) => !known.has(id) && known.add(id));
    if (outbox.length + news.length > mostWaiting) return tooManyWaiting;
    for (const { id, at } of news) if (at !== now) this.#dated.add(id);
    this.#port.keep({ outbox: [...outbox, ...news] });
    if (await this.#port.persist()) return { ok: true, accepted: news.length, duplicates: readings.length - news.length };
    this.#settle(news);
    return notStored;
  }

  /** One at a time: two would send the same. A call that comes meanwhile waits for the next one, which has what is new by then. */
  send(): Promise<Reported> {
    return (this.#next ??= this.#sending.then(() => {
      this.#next = undefined;
      const sending = this.#send();
      this.#sending = sending.catch(() => undefined);
      return sending;
    }));
  }

  /** A verdict, asked for at `askedAt`, counts all that the server had answered for by then. It may have put the time back; the license is still `aheadMs` ahead of it. */
  areKnown(askedAt: number, aheadMs: number): void {
    const sent = this.#port.kept().sent.map((record) => (record.sentAt <= askedAt ? { ...record, isKnown: true } : record));
    this.#port.keep({ sent: remembered(sent, this.#port.info(), this.#port.now()), outbox: redated(this.#port.kept().outbox, this.#dated, this.#port.now() - aheadMs) });
  }

  async #send(): Promise<Reported> {
    const { send, kept, logger, answers } = this.#port;
    if (!send) return noServer;
    // Readings made meanwhile are for the next time, or there would be no end.
    const waiting = new Set(kept().outbox.map(({ id }) => id));
    for (let accepted = 0; ;) {
      const { outbox, state: { instanceId } } = kept();
      if (instanceId === null) return notActivated;
      const records = batchOf(outbox.filter(({ id }) => waiting.has(id)), this.#mostAtOnce);
      if (records.length === 0) return { ok: true, accepted };
      for (const { id } of records) this.#open.delete(id);
      const reply = await send(instanceId, records);
      if (isTooLarge(reply) && records.length > 1) {
        this.#mostAtOnce = Math.ceil(records.length / 2);
        continue;
      }
      if (reply.kind === 'unreachable') return answers.refusal(reply);
      if (reply.kind === 'answered' && typeof reply.body['accepted'] !== 'number') return untrusted('The answer does not say that the readings were counted');
      const isTooEarly = reply.kind === 'refused' && (!ofReadings.has(reply.code) || (reply.code === 'INSTANCE_NOT_FOUND' && this.#port.waitsForSeat()));
      if (isTooEarly) {
        logger?.warn('usage was refused and waits', { code: reply.code, detail: reply.detail });
        return answers.refusal(reply);
      }
      // They are in the future only because the license's time is ahead: a verdict corrects it, and the readings dated by it.
      if (reply.kind === 'refused' && reply.code === 'USAGE_OUT_OF_RANGE') {
        const problem = await answers.ask();
        if (problem) return problem;
        const unchanged = new Set(kept().outbox);
        if (records.some((record) => !unchanged.has(record))) continue;
      }
      // Refused readings would be refused again: all of them, or those that are named; the others are sent once more without them.
      const named = reply.kind === 'refused' ? namedIn(reply.body) : new Set();
      const done = named.size > 0 ? records.filter((_, n) => named.has(n)) : records;
      if (reply.kind === 'refused') logger?.warn('usage was refused', { code: reply.code, detail: reply.detail, records: done.length });
      else accepted += done.length;
      this.#settle(done, reply.kind === 'answered' ? done : []);
      await this.#port.persist();
      if (reply.kind === 'refused' && done.length === records.length) return answers.refusal(reply);
    }
  }

  /** `done` wait no more; `sent` of them count as sent from now on. */
  #settle(done: readonly UsageRecord[], sent: readonly UsageRecord[] = []): void {
    const [ids, sentAt] = [new Set(done.map(({ id }) => id)), this.#port.now()];
    for (const id of ids) this.#dated.delete(id);
    this.#port.keep({
      outbox: this.#port.kept().outbox.filter(({ id }) => !ids.has(id)),
      sent: remembered([...this.#port.kept().sent, ...sent.map((record) => ({ ...record, sentAt }))], this.#port.info(), sentAt),
    });
  }
}

/** A value that the server refuses would take the others of its minute with it. */
function mustCount(meter: string, value: number): void {
  if (typeof value !== 'number' || !(value >= 0 && value <= 1e12)) throw new RangeError(`Usage of ${meter} is a number from 0 to 1e12, not ${value}`);
}

/** Codes of refusals that are about the readings. Others are about the sender, like a key that was replaced: readings wait until that is settled. */
const ofReadings: ReadonlySet<string> = new Set(['VALIDATION_FAILED', 'USAGE_OUT_OF_RANGE', 'INSTANCE_NOT_FOUND', 'BODY_TOO_LARGE']);

const isTooLarge = (reply: Reply): boolean => (reply.kind === 'refused' && reply.code === 'BODY_TOO_LARGE') || (reply.kind === 'unreachable' && reply.status === 413);

/** Positions of the records in the batch that a refusal is about. */
function namedIn({ errors }: Readonly<Record<string, unknown>>): ReadonlySet<number> {
  const pointers = Array.isArray(errors) ? errors.map((error: { pointer?: unknown } | null) => /^\/records\/(\d+)(\/|$)/.exec(String(error?.pointer))?.[1]) : [];
  return new Set(pointers.filter((n) => n !== undefined).map(Number));
}
