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
  /** The others must hear at once of what this process has just begun: it gives the seat back. */
  isUrgent(): boolean;
  /** This process leads from now on. `besideOthers`: it did before, but other processes of this installation may have led as well. */
  leading(besideOthers: boolean): void;
  /** Called once, until the same work has succeeded. */
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
  /** What went wrong the last time; empty if nothing did. */
  readonly #failing = { turn: '', store: '' };
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

  /** All that may lead are tabs of one browser: a stream in each would take the six connections to a host that they have together. */
  get isCrowded(): boolean {
    return this.isAssumed && this.#port.shared.areTabs === true;
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
    const mayRead = await this.#holds();
    if (mayRead) await this.#catchUp();
    const text = await textOf();
    // Asked last: a process that was held up while it read or sealed may have been replaced meanwhile, and its text is older.
    const mayWrite = mayRead && (await this.#holds());
    if (mayWrite) {
      await this.#port.store.write(text);
      this.#own = text;
      this.#followed = text;
    }
    // Where several lead, the next one writes over the text of the store.
    const tells = !mayWrite || (this.isAssumed && this.#port.isUrgent());
    if (tells || this.#hasTold) await this.#port.shared.tell(tells ? text : null);
    this.#hasTold = tells;
  }

  /** Leaves what was in the store to another process, or to this one once it leads. */
  leave(): void {
    this.#own = null;
  }

  /** Reads what the leader has written, as of now. */
  follow(): Promise<void> {
    return this.#exclusively(() => this.#follow());
  }

  /** Whether it is so in the text of another process, as of now: beside the store, or in it if another one may lead. */
  async hears(isSo: (kept: Kept) => boolean): Promise<boolean> {
    const told = await this.#port.shared.told();
    const stored = await this.#stored();
    for (const text of [...told.map(({ text }) => text), ...(stored == null || stored === this.#own ? [] : [stored])]) {
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
    // One that was robbed while it hung may find the lead free again: it goes on from what was written since.
    const isStill = this.#isLeading && (await this.#holds());
    const leads = this.#wantsLead && (await this.#port.shared.take());
    if (leads) this.#isBesideStranger = false;
    const isAlone = wasAssumed && !this.isAssumed;
    if (leads && (!isStill || isAlone)) return this.#takeOver(isAlone);
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
    const text = await this.#stored();
    if (text === undefined || text === this.#own) return;
    const kept = text === null ? undefined : await this.#port.read(text);
    if (kept) this.#port.inherit(kept);
    this.#own = text;
    this.#followed = text;
  }

  /** Undefined if it cannot be read. */
  async #stored(): Promise<string | null | undefined> {
    try {
      const text = await this.#port.store.read();
      this.#failing.store = '';
      return text;
    } catch (error) {
      this.#failed('store', error);
      return undefined;
    }
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
    const done = this.#last.then(work).then(() => void (this.#failing.turn = ''), (error: unknown) => this.#failed('turn', error));
    this.#last = done;
    return done;
  }

  #failed(work: 'turn' | 'store', error: unknown): void {
    if (this.#failing[work] !== String(error)) this.#port.failed(error);
    this.#failing[work] = String(error);
  }
}
