import type { Clock } from './clock.ts';
import type { Kept } from './kept.ts';
import type { Shared } from './shared.ts';
import type { Store } from './store.ts';

/** What sharing needs of its license. */
interface Port {
  readonly clock: Clock;
  readonly store: Store;
  readonly shared: Shared;
  /** Undefined for a text that is not of this installation. */
  read(text: string): Promise<Kept | undefined>;
  /** What is signed, of another process. */
  learn(kept: Kept): void;
  /** And what it has not sent yet: it will not do so any more. */
  inherit(kept: Kept): void;
  persist(): Promise<boolean>;
  written(): Promise<unknown>;
  /** This process leads from now on. `besideOthers`: it did before, but others of this installation may have done so as well. */
  leading(besideOthers: boolean): void;
  failed(error: unknown): void;
}

/** A process that runs writes its text twice as often. Whoever has not for so long is no more. */
const goneMs = 90_000;

/**
 * Several processes with one state. One of them leads: it alone writes the text of the store and sends heartbeats. The others live on what it has
 * written, and each tells in a text of its own what it knows better, and what was used there; the leader takes that over from one that is no more.
 * When the leader ends, another takes its place and goes on from what is written.
 */
export class Sharing {
  readonly #port: Port;
  readonly #closed = new AbortController();
  readonly #heard = new Map<string, { readonly text: string; readonly at: number }>();
  #isLeading = false;
  #hasTold = false;
  #wantsLead = false;
  #isLooking = false;
  /** Of the store: what this process has written or taken over, and what it has read. */
  #own: string | null;
  #followed: string | null;
  /** One step at a time. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(port: Port, text: string | null) {
    this.#port = port;
    this.#own = text;
    this.#followed = text;
  }

  get isLeading(): boolean {
    return this.#isLeading;
  }

  /** Others of this installation may lead as well. */
  get isAssumed(): boolean {
    return this.#port.shared.isAssumed?.() ?? false;
  }

  /** From now on, until `retire`, it leads when nobody else does. */
  contend(): void {
    this.#wantsLead = true;
    this.look();
    void this.#exclusively(() => this.#turn());
  }

  retire(): void {
    if (!this.#wantsLead) return;
    this.#wantsLead = false;
    void this.#exclusively(async () => {
      await this.#port.persist();
      await this.#port.written();
      this.#isLeading = false;
      await this.#port.shared.release();
    });
  }

  /** What it has told stays for who leads. */
  async close(): Promise<void> {
    this.#closed.abort();
    this.retire();
    await this.#last;
  }

  /** Asked right before something is written or sent: whoever was held up for long may have been replaced meanwhile. */
  async leads(): Promise<boolean> {
    const leader = await this.#port.shared.leader();
    if (leader === 'other') this.look();
    return leader === 'self' ? this.#isLeading : leader === 'nobody' && !this.#wantsLead;
  }

  /** Of those that begin together it is known who leads. */
  async settled(): Promise<void> {
    await this.#last;
  }

  /** Whether this process may write the text of the store; it knows then what was in it. */
  async mayWrite(): Promise<boolean> {
    if (!(await this.leads())) return false;
    await this.#catchUp();
    return this.leads();
  }

  /** To the store by who may, and otherwise beside it. */
  async write(text: string, mayWrite: boolean): Promise<void> {
    if (mayWrite) {
      await this.#port.store.write(text);
      this.#own = text;
      this.#followed = text;
    }
    if (!mayWrite || this.#hasTold) await this.#port.shared.tell(mayWrite ? null : text);
    this.#hasTold = !mayWrite;
  }

  /** What was in the store waits there for another one, or for this one when it leads. */
  leave(): void {
    this.#own = null;
  }

  /** What the leader has written, as of now. */
  follow(): Promise<void> {
    return this.#exclusively(() => this.#follow());
  }

  /** Whether one of the others tells that, as of now. */
  async hears(isSo: (kept: Kept) => boolean): Promise<boolean> {
    for (const { text } of await this.#port.shared.told()) {
      const kept = await this.#port.read(text);
      if (kept && isSo(kept)) return true;
    }
    return false;
  }

  /** Begins to look after the others. */
  look(): void {
    if (!this.#isLooking) void this.#keepLooking();
    this.#isLooking = true;
  }

  async #keepLooking(): Promise<void> {
    const { signal } = this.#closed;
    for (;;) {
      await this.#port.clock.sleep(this.#port.shared.lookMs, signal);
      if (signal.aborted) return;
      await this.#exclusively(() => this.#turn());
    }
  }

  async #turn(): Promise<void> {
    const wasAssumed = this.#isLeading && this.isAssumed;
    const leads = this.#wantsLead && (await this.#port.shared.take());
    const isAlone = wasAssumed && !this.isAssumed;
    if (leads && (!this.#isLeading || isAlone)) return this.#takeOver(isAlone);
    this.#isLeading = leads;
    await (leads ? this.#hear() : this.#follow());
  }

  /** The one before may have ended at any moment, in the middle of a heartbeat: that is sent again, and is the same one. */
  async #takeOver(besideOthers: boolean): Promise<void> {
    await this.#catchUp();
    this.#isLeading = true;
    await this.#port.persist();
    this.#port.leading(besideOthers);
    await this.#hear();
  }

  /** What another one has written since, who writes no more. A store that cannot be read keeps nobody from going on with what he has. */
  async #catchUp(): Promise<void> {
    const { store, read, inherit, failed } = this.#port;
    try {
      const text = await store.read();
      if (text === this.#own) return;
      const kept = text === null ? undefined : await read(text);
      if (kept) inherit(kept);
      this.#own = text;
      this.#followed = text;
    } catch (error) {
      failed(error);
    }
  }

  async #follow(): Promise<void> {
    const text = await this.#port.store.read();
    if (text === null || text === this.#followed) return;
    const kept = await this.#port.read(text);
    if (kept) this.#port.learn(kept);
    this.#followed = text;
  }

  async #hear(): Promise<void> {
    const { shared, clock, read, learn, inherit, persist } = this.#port;
    const { mono } = clock.read();
    const told = await shared.told();
    for (const name of this.#heard.keys()) if (!told.some((one) => one.name === name)) this.#heard.delete(name);
    for (const { name, text, ageMs = 0 } of told) {
      const heard = this.#heard.get(name);
      const isNews = heard?.text !== text;
      const at = isNews ? mono - ageMs : heard.at;
      const isGone = mono - at >= goneMs;
      if (!isNews && !isGone) continue;
      const kept = await read(text);
      if (!isGone) {
        this.#heard.set(name, { text, at });
        if (kept) learn(kept);
      } else if (kept) {
        inherit(kept);
        this.#heard.delete(name);
        if (await persist()) await shared.forget(name);
      }
    }
  }

  #exclusively(work: () => Promise<void>): Promise<void> {
    const done = this.#last.then(work).catch((error: unknown) => this.#port.failed(error));
    this.#last = done;
    return done;
  }
}
