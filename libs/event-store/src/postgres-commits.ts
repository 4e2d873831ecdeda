import type { Appended, ExpectedRevision, NewEvent } from './port.ts';
import { ANSWER_WITHIN_MS, isOwnFault } from './postgres-pool.ts';

const APPENDS_PER_GROUP = 500;
const CHARACTERS_PER_GROUP = 8_000_000;
/** An append that has waited this long for a server that does not answer is not sent any more. */
const WAIT_AT_MOST_MS = ANSWER_WITHIN_MS / 2;

export interface PendingAppend {
  readonly stream: string;
  readonly expected: ExpectedRevision;
  readonly events: readonly NewEvent[];
  readonly datas: readonly string[];
  readonly metadatas: readonly string[];
  readonly characters: number;
  readonly startedAt: number;
  readonly resolve: (appended: Appended) => void;
  readonly reject: (error: unknown) => void;
}
export type Group = readonly PendingAppend[];
export type Outcome = readonly [what: 'appended' | 'duplicate' | 'conflict', revision: number, position: string, at: string];

const isLate = ({ startedAt }: PendingAppend) => performance.now() - startedAt > WAIT_AT_MOST_MS;

/** While one group is committed, the next gathers. One at a time: on the server groups would wait for each other anyway. */
export class GroupCommit {
  readonly #send: (group: Group, withinMs: number) => Promise<readonly Outcome[]>;
  readonly #committed: (group: Group, outcomes: readonly Outcome[]) => void;
  #waiting: PendingAppend[] = [];
  #running: Promise<void> | undefined;

  constructor(send: (group: Group, withinMs: number) => Promise<readonly Outcome[]>, committed: (group: Group, outcomes: readonly Outcome[]) => void) {
    this.#send = send;
    this.#committed = committed;
  }

  add(append: PendingAppend): void {
    this.#waiting.push(append);
    // Runs after all code that is ready now: appends of one turn are sent together.
    this.#running ??= new Promise<void>((resolve) => process.nextTick(resolve)).then(() => this.#run());
  }

  async drained(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) await this.#commit(this.#nextGroup());
    this.#running = undefined;
  }

  #nextGroup(): Group {
    let characters = 0;
    let size = 0;
    for (const append of this.#waiting) {
      characters += append.characters;
      if (size === APPENDS_PER_GROUP || (size > 0 && characters > CHARACTERS_PER_GROUP)) break;
      size++;
    }
    return this.#waiting.splice(0, size);
  }

  async #commit(group: Group): Promise<void> {
    const oldest = group[0] as PendingAppend;
    try {
      this.#committed(group, await this.#send(group, oldest.startedAt + ANSWER_WITHIN_MS - performance.now()));
    } catch (error) {
      if (isOwnFault(error)) return this.#findFault(group, error);
      const late = this.#waiting.filter(isLate);
      this.#waiting = this.#waiting.filter((append) => !isLate(append));
      for (const { reject } of [...group, ...late]) reject(error);
    }
  }

  /** One append made the whole group fail: each is tried alone. */
  async #findFault(group: Group, cause: unknown): Promise<void> {
    if (group.length > 1) for (const append of group) await this.#commit([append]);
    else for (const { stream, reject } of group) reject(new RangeError(`${stream}: events too large or malformed`, { cause }));
  }
}
