import { setTimeout as sleep } from 'node:timers/promises';
import { uniqueId } from '@keyledger/domain';
import { NOWHERE, type Aggregates, type View } from '@keyledger/event-store';
import { context, eventId, Refusal, refuse, runIn, type Aggregate, type ErrorCode } from '@keyledger/kernel';
import type { Keyrings } from '@keyledger/keyring';
import type { CatalogStreams } from './streams.ts';

interface Bearers<State, Command extends { type: string }, Event extends { type: string }> {
  readonly kind: Parameters<typeof uniqueId>[0];
  readonly taken: ErrorCode;
  readonly rules: Aggregate<State, Command, Event>;
  readonly owners: Aggregates<State, Command, Event>;
  /** The hash of the value that an owner has. */
  hashOf(state: State): string | null;
}

const MAX_LOST_RACES = 50;
/** Nearly a second in all. */
const MAX_CLAIMS = 10;

/** Unique values of one kind, and the commands that give them to an owner: see unique.ts in the domain. */
export class UniqueValues<State, Command extends { type: string }, Event extends { type: string }> {
  readonly #unique: CatalogStreams['unique'];
  readonly #keyrings: Keyrings;
  readonly #bearers: Bearers<State, Command, Event>;

  constructor({ unique }: CatalogStreams, keyrings: Keyrings, bearers: Bearers<State, Command, Event>) {
    this.#unique = unique;
    this.#keyrings = keyrings;
    this.#bearers = bearers;
  }

  /** `value` is normalised. */
  hash(value: string): string {
    return this.#keyrings.here().hmac(this.#bearers.kind, value);
  }

  async bearer(hash: string): Promise<string | undefined> {
    const { state } = await this.#unique.load(this.#id(hash));
    return state && (await this.#bears(state.ownerId, hash)) ? state.ownerId : undefined;
  }

  /** The command creates an owner with the value. */
  async create<Answer>(ownerId: string, hash: string, command: Command, view: View<State, Event, Answer>): Promise<Answer> {
    const { rules, owners } = this.#bearers;
    const done = await owners.done(ownerId, command.type, view);
    if (done) return done;
    rules.decide(rules.initial(), command, context().now);
    await this.#claim(hash, ownerId);
    return owners.create(ownerId, command, view);
  }

  /** The command replaces the owner's value; null: removes it. */
  update<Answer>(ownerId: string, hash: string | null, command: Command, view: View<State, Event, Answer>): Promise<Answer> {
    const { rules, owners, hashOf } = this.#bearers;
    const message = context();
    const { ifRevision } = message;
    const runAt = (revision: number) => runIn({ ...message, ifRevision: revision }, () =>
      owners.run(ownerId, command, (state, at, events) => ({ answer: view(state, at, events), isNew: events.length > 0 })));

    // The caller's revision is that of the owner's stream, not of the value's.
    return runIn({ ...message, ifRevision: undefined }, () => unlessDone(async () => (await runAt(NOWHERE)).answer, async () => {
      for (let lostRaces = 0; lostRaces < MAX_LOST_RACES; lostRaces++) {
        const { held, revision } = await owners.load(ownerId, (state, found) => {
          if (ifRevision !== undefined && ifRevision !== found) throw refuse('VERSION_CONFLICT', `Asked for revision ${ifRevision}, found ${found}`, { revision: found });
          rules.decide(state, command, message.now);
          return { held: hashOf(state), revision: found };
        });
        try {
          return await this.#exchange(ownerId, held, hash, () => runAt(revision));
        } catch (error) {
          if (ifRevision !== undefined || !isConflict(error)) throw error;
          await sleep(Math.random() * lostRaces);
        }
      }
      throw refuse('TRY_AGAIN');
    }));
  }

  /** `run` holds to the revision at which its owner bore `held`, and each release to the claim as it was before `run`: what another run claims meanwhile is left to it. */
  async #exchange<Answer>(ownerId: string, held: string | null, wanted: string | null, run: () => Promise<{ answer: Answer; isNew: boolean }>): Promise<Answer> {
    if (held === wanted) return (await run()).answer;
    const [old, before] = await Promise.all([held, wanted].map((hash) =>
      (hash === null ? undefined : this.#unique.load(this.#id(hash), (state, revision) => ({ ownerId: state?.ownerId, revision })))));
    const claimed = wanted === null ? undefined : await this.#claim(wanted, ownerId);
    try {
      const { answer, isNew } = await run();
      if (isNew && old) await this.#release(held as string, ownerId, old.revision);
      return answer;
    } catch (error) {
      const wasFree = before && before.ownerId !== ownerId && claimed === before.revision + 1;
      if (wasFree && isRefused(error)) await this.#release(wanted as string, ownerId, claimed);
      throw error;
    }
  }

  /** Returns the revision of the claim. An owner that has claimed the value but does not have it yet may be about to: wait for it a little. */
  async #claim(hash: string, ownerId: string): Promise<number> {
    const { taken } = this.#bearers;
    let insteadOf: string | undefined;
    for (let tries = 0; tries < MAX_CLAIMS; tries++) {
      try {
        const { events, revision } = await this.#unique.run(this.#id(hash), { type: 'Claim', ownerId, taken, ...(insteadOf !== undefined && { insteadOf }) });
        // No events: an earlier run of this message claimed it, and the answer does not tell who has it now.
        if (events.length > 0) return revision;
      } catch (error) {
        if (!(error instanceof Refusal) || error.code !== taken) throw error;
        insteadOf = error.members['id'] as string;
        if (await this.#bears(insteadOf, hash)) throw error;
        await sleep(20 * tries);
      }
    }
    throw refuse('TRY_AGAIN', 'Another request has reserved this value and is not finished; try again');
  }

  async #release(hash: string, ownerId: string, revision: number): Promise<void> {
    try {
      // A try that lost the race may have released another claim before.
      const { commandId } = context();
      await runIn({ ...context(), commandId: eventId(commandId, `release/${revision}`), ifRevision: revision }, () => this.#unique.run(this.#id(hash), { type: 'Release', ownerId }));
    } catch (error) {
      if (!isConflict(error)) throw error;
    }
  }

  async #bears(ownerId: string, hash: string): Promise<boolean> {
    const { owners, hashOf } = this.#bearers;
    return hashOf((await owners.load(ownerId)).state) === hash;
  }

  #id(hash: string): string {
    return uniqueId(this.#bearers.kind, hash);
  }
}

/** Not where it is unknown whether it was stored. */
const isRefused = (error: unknown): boolean => error instanceof Refusal && error.status < 500;
const isConflict = (error: unknown): boolean => error instanceof Refusal && error.code === 'VERSION_CONFLICT';

/** What is refused may be what this very message has done before: its owner's stream knows. */
async function unlessDone<Answer>(run: () => Promise<Answer>, work: () => Promise<Answer>): Promise<Answer> {
  try {
    return await work();
  } catch (error) {
    if (!isRefused(error)) throw error;
    return runIn({ ...context(), ifRevision: NOWHERE }, run).catch(() => { throw error; });
  }
}
