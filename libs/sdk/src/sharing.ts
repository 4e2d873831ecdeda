import type { Clock } from './clock.ts';
import type { Kept } from './kept.ts';
import type { Shared } from './shared.ts';
import type { Store } from './store.ts';

/** What sharing needs of its license. */
interface Port {
  readonly clock: Clock;
  readonly store: Store;
  readonly shared: Shared;
  /** Undefined for a text of another installation. */
  read(text: string): Promise<Kept | undefined>;
  /** Takes over what is signed in the state of another process. */
  learn(kept: Kept): void;
  /** And what that process has not sent yet, because it no longer will. */
  inherit(kept: Kept): void;
  persist(): Promise<boolean>;
  written(): Promise<unknown>;
  /** This process leads from now on. `besideOthers`: it did before, but other processes of this installation may have led as well. */
  leading(besideOthers: boolean): void;
  failed(error: unknown): void;
}

/** A running process writes its text twice as often. One that has not for so long is gone. */
const goneMs = 90_000;

/**
 * Several processes with one state. One of them leads: it alone writes the text of the store and sends heartbeats. The others live on that text, and
 * each writes a text of its own with what it knows better and what was used there, which the leader takes over when the process is gone. When the
 * leader ends, another takes its place and goes on from what is written.
 */
export class Sharing {
  readonly #port: Port;
  readonly #closed = new AbortController();
  readonly #heard = new Map<string, { readonly text: string; readonly at: number }>();
  #isLeading = false;
  #hasTold = false;
  #wantsLead = false;
  #isLooking = false;
  /** The leader is of another license or machine: this process cannot live on its text. */
  #isBesideStranger = false;
  /** The text of the store that this process has last written or taken over, and last read. */
  #own: string | null;
  #followed: string | null;
  /** One step at a time. */
  #last: Promise<unknown> = Promise.resolve();

  /** `text`: what was in the store, and `isOwn`: of this installation. */
  constructor(port: Port, text: string | null, isOwn: boolean) {
    this.#port = port;
    this.#own = text;
    this.#followed = isOwn ? text : null;
  }

  get isLeading(): boolean {
    return this.#isLeading;
  }

  /** Other processes of this installation may lead as well. */
  get isAssumed(): boolean {
    return this.#isBesideStranger || (this.#port.shared.isAssumed?.() ?? false);
  }

  /** From now on, until `retire`, this process leads if no other does. */
  contend(): void {
    if (this.#wantsLead) return;
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

  /** The text of this process stays for the leader. */
  async close(): Promise<void> {
    this.#closed.abort();
    this.retire();
    await this.#last;
  }

  /** Asked right before something is written or sent: a process that was held up for long may have been replaced meanwhile. */
  async leads(): Promise<boolean> {
    if (await this.#holds()) return true;
    if (this.#isBesideStranger) await this.#follow();
    return this.#isBesideStranger;
  }

  async #holds(): Promise<boolean> {
    const leader = await this.#port.shared.leader();
    if (leader === 'other') this.look();
    return leader === 'self' ? this.#isLeading : leader === 'nobody' && !this.#wantsLead;
  }

  /** Among processes that begin together the leader is known. */
  async settled(): Promise<void> {
    await this.#last;
  }

  /** To the store if this process leads, and otherwise beside it. */
  async write(textOf: () => Promise<string>): Promise<void> {
    const mayWrite = await this.#mayWrite();
    const text = await textOf();
    if (mayWrite) {
      await this.#port.store.write(text);
      this.#own = text;
      this.#followed = text;
    }
    if (!mayWrite || this.#hasTold) await this.#port.shared.tell(mayWrite ? null : text);
    this.#hasTold = !mayWrite;
  }

  /** Leaves what was in the store to another process, or to this one once it leads. */
  leave(): void {
    this.#own = null;
  }

  /** Reads what the leader has written, as of now. */
  follow(): Promise<void> {
    return this.#exclusively(() => this.#follow());
  }

  /** Whether it is so in the text of another process, as of now. */
  async hears(isSo: (kept: Kept) => boolean): Promise<boolean> {
    for (const { text } of await this.#port.shared.told()) {
      const kept = await this.#port.read(text);
      if (kept && isSo(kept)) return true;
    }
    return false;
  }

  /** Begins to look after the other processes. */
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
    const wasAssumed = this.#isBesideStranger || (this.#isLeading && this.isAssumed);
    const leads = this.#wantsLead && (await this.#port.shared.take());
    if (leads) this.#isBesideStranger = false;
    const isAlone = wasAssumed && !this.isAssumed;
    if (leads && (!this.#isLeading || isAlone)) return this.#takeOver(isAlone);
    this.#isLeading = leads;
    await (leads ? this.#hear() : this.#follow());
  }

  /** The leader before may have ended at any moment, in the middle of a heartbeat: that is sent again, and is the same one. */
  async #takeOver(besideOthers: boolean): Promise<void> {
    await this.#catchUp();
    this.#isLeading = true;
    await this.#port.persist();
    this.#port.leading(besideOthers);
    await this.#hear();
  }

  /** Takes over what a former leader has written since. If the store cannot be read, this process goes on with what it has. */
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

  /** Whether this process may write the text of the store; it then knows what was in it. */
  async #mayWrite(): Promise<boolean> {
    if (!(await this.#holds())) return false;
    await this.#catchUp();
    return this.#holds();
  }

  async #follow(): Promise<void> {
    const text = await this.#port.store.read();
    if (text === null || text === this.#followed) return;
    const kept = await this.#port.read(text);
    if (kept) this.#port.learn(kept);
    this.#isBesideStranger = !kept;
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
