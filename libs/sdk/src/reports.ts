import type { Logger } from './api.ts';
import type { Kept } from './kept.ts';
import { noServer, notActivated, notStored, tooManyWaiting, type Refusal } from './refusal.ts';
import type { Refused, Reply, Unreachable } from './server.ts';
import type { LicenseInfo } from './state.ts';
import { remembered, type UsageRecord } from './usage.ts';

/** What reports need of their license. Times are by its reckoning, in milliseconds since 1970. */
interface Port {
  readonly logger: Logger | undefined;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  persist(): Promise<boolean>;
  now(): number;
  info(): LicenseInfo | null;
  /** Undefined without a server. */
  readonly send: ((instanceId: string, records: readonly UsageRecord[]) => Promise<Reply>) | undefined;
  refusal(reply: Refused | Unreachable): Refusal;
}

export type Reported = { readonly ok: true; readonly accepted: number } | Refusal;

/** Readings. */
const mostWaiting = 10_000;
/** The server takes no more at once. */
const mostAtOnce = 1000;

/** What was used, on its way to the server: it waits in the store until it was answered for, and counts here for as long as it matters. */
export class Reports {
  readonly #port: Port;
  #sending: Promise<unknown> = Promise.resolve();
  #next: Promise<Reported> | undefined;

  constructor(port: Port) {
    this.#port = port;
  }

  use(meter: string, value: number): void {
    const record: UsageRecord = { id: crypto.randomUUID(), meter, value, at: new Date(this.#port.now()).toISOString() };
    this.#port.keep({ outbox: [...this.#port.kept().outbox, record].slice(-mostWaiting) });
    void this.#port.persist();
  }

  /** All of them and for good, or none. */
  async take(readings: readonly (Omit<UsageRecord, 'id' | 'at'> & Partial<UsageRecord>)[]): Promise<{ readonly ok: true; readonly accepted: number; readonly duplicates: number } | Refusal> {
    const { outbox, sent } = this.#port.kept();
    const known = new Set([...outbox, ...sent].map(({ id }) => id));
    const now = new Date(this.#port.now()).toISOString();
    const news = readings.map(({ id = crypto.randomUUID(), meter, value, at = now }): UsageRecord => ({ id, meter, value, at })).filter(({ id }) => !known.has(id) && known.add(id));
    if (outbox.length + news.length > mostWaiting) return tooManyWaiting;
    this.#port.keep({ outbox: [...outbox, ...news] });
    if (await this.#port.persist()) return { ok: true, accepted: news.length, duplicates: readings.length - news.length };
    this.#settle(news);
    return notStored;
  }

  /** One at a time: two would send the same. Whoever comes meanwhile waits for the next, which has what is new by then. */
  send(): Promise<Reported> {
    return (this.#next ??= this.#sending.then(() => {
      this.#next = undefined;
      const sending = this.#send();
      this.#sending = sending.catch(() => undefined);
      return sending;
    }));
  }

  /** A verdict has counted what the server had answered for when it was asked for. */
  areKnown(askedAt: number): void {
    const sent = this.#port.kept().sent.map((record) => (record.sentAt <= askedAt ? { ...record, isKnown: true } : record));
    this.#port.keep({ sent: remembered(sent, this.#port.info(), this.#port.now()) });
  }

  async #send(): Promise<Reported> {
    if (!this.#port.send) return noServer;
    for (;;) {
      const { outbox, state: { instanceId } } = this.#port.kept();
      const records = outbox.slice(0, mostAtOnce);
      if (instanceId === null) return notActivated;
      if (records.length === 0) return { ok: true, accepted: 0 };
      const reply = await this.#port.send(instanceId, records);
      if (reply.kind === 'unreachable') return this.#port.refusal(reply);
      // What was refused would be refused again: all of it, or those that are named, without whom the others are sent once more.
      const named = reply.kind === 'refused' ? namedIn(reply.body) : new Set();
      const done = named.size > 0 ? records.filter((_, n) => named.has(n)) : records;
      if (reply.kind === 'refused') this.#port.logger?.warn('usage was refused', { code: reply.code, detail: reply.detail, records: done.length });
      this.#settle(done, reply.kind === 'answered' ? done : []);
      await this.#port.persist();
      if (reply.kind === 'answered') return { ok: true, accepted: records.length };
      if (done.length === records.length) return this.#port.refusal(reply);
    }
  }

  /** They wait no more; and some of them count from now on as sent. */
  #settle(done: readonly UsageRecord[], sent: readonly UsageRecord[] = []): void {
    const [ids, sentAt] = [new Set(done.map(({ id }) => id)), this.#port.now()];
    this.#port.keep({
      outbox: this.#port.kept().outbox.filter(({ id }) => !ids.has(id)),
      sent: remembered([...this.#port.kept().sent, ...sent.map((record) => ({ ...record, sentAt }))], this.#port.info(), sentAt),
    });
  }
}

/** Which of the records of a batch a refusal is about, by their place. */
function namedIn({ errors }: Readonly<Record<string, unknown>>): ReadonlySet<number> {
  const pointers = Array.isArray(errors) ? errors.map((error: { pointer?: unknown } | null) => /^\/records\/(\d+)(\/|$)/.exec(String(error?.pointer))?.[1]) : [];
  return new Set(pointers.filter((n) => n !== undefined).map(Number));
}
