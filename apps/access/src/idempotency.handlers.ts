import { setTimeout as sleep } from 'node:timers/promises';
import { ClaimRequest, CompleteRequest } from '@keyledger/contracts';
import { addDays, context, newCommandId, refuse, type Instant } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Injectable } from '@nestjs/common';
import { inPieces, StateDatabases, type Migration } from '@keyledger/read-models';

type Claim = Pick<ClaimRequest, 'caller' | 'route' | 'key'>;
type StoredAnswer = { status: number; body: string; headers: Record<string, string> };
type Running = { done: Promise<void>; finish: () => void; since: number };
type Row = { body_hash: string; command_id: string; command_at: Instant; answer: string | null };

export const requestsTable: Migration = {
  name: 'access-1-requests',
  async up({ run }) {
    await run('create table access_requests (claim text primary key, body_hash text not null, command_id text not null, command_at text not null, answer text)');
    await run('create index access_requests_command_at on access_requests (command_at)');
  },
};

/** How long a duplicate waits for the first request; then the caller is asked to try again later. */
const patienceMs = 4000;
/** After this long the process that worked on a request is presumed dead: a gateway waits 5 s for a service, and then reports the outcome. For an erasure it waits 60 s; begun again, that is the same command. */
const abandonedMs = 6_000;
const LOOK_MS = 100;
const keptDays = 4;
/** In place of an answer: the attempt ended without one, and the next may begin at once. */
const RELEASED = '';

/**
 * Idempotency-Keys. A claim is one row, durable before the request is worked on, and fixes the command id: running the request again runs the
 * same command, whose events the store already knows. The answer is sealed under the Idempotency-Key itself, of which only a keyed hash is stored,
 * so that only a caller with that key can read the answer.
 */
@Injectable()
export class Requests {
  /** Claims being worked on in this process → since when, by `performance.now()`, because the clock may be set back. */
  readonly #running = new Map<string, Running>();

  constructor(private readonly databases: StateDatabases, private readonly keyrings: Keyrings) {}

  /** Claims that this process considers to be worked on. */
  get running(): number {
    return this.#running.size;
  }

  async claim({ bodyHash, ...claim }: ClaimRequest): Promise<{ state: 'run'; commandId: string; commandAt: Instant; retry: boolean } | ({ state: 'done' } & StoredAnswer)> {
    const { id, body } = this.#hashes(claim, bodyHash);
    const patientUntil = performance.now() + patienceMs;
    for (let running = this.#runningNow(id); running; running = this.#runningNow(id)) {
      // Another process may have completed it.
      const row = await this.#row(id);
      const answer = this.#answerIn(claim, body, row);
      if (answer) return answer;
      if (row?.answer === RELEASED) break;
      if (performance.now() > patientUntil) throw refuse('IDEMPOTENCY_IN_PROGRESS', undefined, { retryAfter: 1 });
      await Promise.race([running.done, sleep(LOOK_MS, undefined, { ref: false })]);
    }
    this.#begin(id);
    try {
      const outcome = await this.#take(claim, id, body);
      if (outcome.state === 'done') this.#end(id);
      return outcome;
    } catch (error) {
      this.#end(id);
      throw error;
    }
  }

  /** The first stored answer counts. */
  async complete({ status, body, headers, ...claim }: CompleteRequest): Promise<StoredAnswer> {
    const { id } = this.#hashes(claim);
    const answer: StoredAnswer = { status, body, headers };
    try {
      if (status === 0) {
        // Only spares the next attempt a wait: the answer is a failure already, and must not take longer because the database is away.
        void this.databases.here().run(`update access_requests set answer = '${RELEASED}' where claim = ? and answer is null`, [id]).catch(() => undefined);
        return answer;
      }
      const sealed = this.keyrings.here().sealAnswer(claim.key, answer);
      const { changes } = await this.databases.here().run(`update access_requests set answer = ? where claim = ? and (answer is null or answer = '${RELEASED}')`, [sealed, id]);
      if (changes === 1) return answer;
      const stored = (await this.#row(id))?.answer;
      return stored ? this.#open(claim, stored) : answer;
    } finally {
      this.#end(id);
    }
  }

  async forgetOld(now: Instant): Promise<void> {
    await inPieces(this.databases.here(), 'delete from access_requests where claim in (select claim from access_requests where command_at < ? limit ?)', [addDays(now, -keptDays)]);
  }

  /** The caller may run the request, for the first time or again: another process may be running it, too, and both do the same. */
  async #take(claim: Claim, id: string, body: string) {
    const commandId = newCommandId();
    // The gateway's time: retries happen in real time, whatever the environment's clock says.
    const { commandAt } = context();
    const { changes } = await this.databases.here().run(
      'insert into access_requests (claim, body_hash, command_id, command_at) values (?, ?, ?, ?) on conflict (claim) do nothing', [id, body, commandId, commandAt]);
    if (changes === 1) return { state: 'run' as const, commandId, commandAt, retry: false };
    const row = await this.#row(id);
    if (!row) throw refuse('TRY_AGAIN');
    if (row.answer === RELEASED) await this.databases.here().run(`update access_requests set answer = null where claim = ? and answer = '${RELEASED}'`, [id]);
    return this.#answerIn(claim, body, row) ?? { state: 'run' as const, commandId: row.command_id, commandAt: row.command_at, retry: true };
  }

  #answerIn(claim: Claim, body: string, row: Row | undefined) {
    if (row && row.body_hash !== body) throw refuse('IDEMPOTENCY_KEY_REUSED');
    return row?.answer ? { state: 'done' as const, ...this.#open(claim, row.answer) } : undefined;
  }

  #runningNow(id: string) {
    const running = this.#running.get(this.#local(id));
    return running && running.since >= performance.now() - abandonedMs ? running : undefined;
  }

  #end(id: string): void {
    this.#running.get(this.#local(id))?.finish();
    this.#running.delete(this.#local(id));
  }

  #begin(id: string): void {
    // Claims completed in another process, or never, come first in the map.
    for (const [local, { since }] of this.#running) {
      if (since >= performance.now() - abandonedMs) break;
      this.#running.delete(local);
    }
    const { promise: done, resolve: finish } = Promise.withResolvers<void>();
    this.#running.set(this.#local(id), { done, finish, since: performance.now() });
  }

  async #row(id: string): Promise<Row | undefined> {
    const { rows: [row] } = await this.databases.here().run<Row>('select body_hash, command_id, command_at, answer from access_requests where claim = ?', [id]);
    return row;
  }

  #open({ key }: Claim, sealed: string): StoredAnswer {
    return this.keyrings.here().openAnswer(key, sealed) as StoredAnswer;
  }

  #hashes({ caller, route, key }: Claim, bodyHash = ''): { id: string; body: string } {
    const keyring = this.keyrings.here();
    return { id: keyring.hmac('request', JSON.stringify([caller, route, key])), body: keyring.hmac('request-body', bodyHash) };
  }

  #local(id: string): string {
    return `${context().environment} ${id}`;
  }
}

@Handles(ClaimRequest, CompleteRequest)
export class RequestCommands {
  constructor(private readonly requests: Requests) {}

  execute(command: ClaimRequest | CompleteRequest) {
    return command instanceof CompleteRequest ? this.requests.complete(command) : this.requests.claim(command);
  }
}
