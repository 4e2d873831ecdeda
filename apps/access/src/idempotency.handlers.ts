import { ClaimRequest, CompleteRequest } from '@keyledger/contracts';
import { context, newCommandId, refuse, type Instant } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Injectable } from '@nestjs/common';
import { StateDatabases, type Migration } from '@keyledger/read-models';

type Claim = Pick<ClaimRequest, 'caller' | 'route' | 'key'>;
type StoredAnswer = { status: number; body: string; headers: Record<string, string> };
type Row = { body_hash: string; command_id: string; command_at: Instant; answer: string | null };

export const requestsTable: Migration = {
  name: 'access-1-requests',
  async up({ run }) {
    await run('create table access_requests (claim text primary key, body_hash text not null, command_id text not null, command_at text not null, answer text)');
    await run('create index access_requests_command_at on access_requests (command_at)');
  },
};

/** How long a duplicate waits for the one before it; then the caller is asked to come back. */
const patienceMs = 4000;
/** After this long whoever worked on a request is taken for dead. */
const abandonedMs = 30_000;
const keptDays = 4;

/**
 * Idempotency-Keys. A claim is one row, durable before the request is worked on, and fixes the command id: whoever runs the request again
 * runs the same command, whose events the store already knows. The answer is sealed under the Idempotency-Key itself, of which only a
 * keyed hash is stored, so that what was answered can be read by those alone who have the key.
 */
@Injectable()
export class Requests {
  /** Claims that are being worked on in this process. */
  readonly #running = new Map<string, { done: Promise<void>; finish: () => void; since: number }>();

  constructor(private readonly databases: StateDatabases, private readonly keyrings: Keyrings) {}

  async claim({ bodyHash, ...claim }: ClaimRequest): Promise<{ state: 'run'; commandId: string; commandAt: Instant; retry: boolean } | ({ state: 'done' } & StoredAnswer)> {
    const { id, body } = this.#hashes(claim, bodyHash);
    const commandId = newCommandId();
    // As the edge says it: retries happen in real time, whatever the environment's clock says.
    const { commandAt } = context();
    const { changes } = await this.databases.here().run(
      'insert into access_requests (claim, body_hash, command_id, command_at) values (?, ?, ?, ?) on conflict (claim) do nothing', [id, body, commandId, commandAt]);
    if (changes === 1) {
      this.#begin(id);
      return { state: 'run', commandId, commandAt, retry: false };
    }
    return this.#again(claim, id, body);
  }

  /** The first answer that is stored is the answer. */
  async complete({ status, body, headers, ...claim }: CompleteRequest): Promise<StoredAnswer> {
    const { id } = this.#hashes(claim);
    const answer: StoredAnswer = { status, body, headers };
    try {
      if (status === 0) return answer;
      const sealed = this.keyrings.here().sealAnswer(claim.key, answer);
      const { changes } = await this.databases.here().run('update access_requests set answer = ? where claim = ? and answer is null', [sealed, id]);
      if (changes === 1) return answer;
      const stored = (await this.#row(id))?.answer;
      return stored ? this.#open(claim, stored) : answer;
    } finally {
      this.#running.get(this.#local(id))?.finish();
      this.#running.delete(this.#local(id));
    }
  }

  async forgetOld(before: Instant): Promise<void> {
    await this.databases.here().run('delete from access_requests where command_at < ?', [before]);
  }

  async #again(claim: Claim, id: string, body: string) {
    for (;;) {
      const row = await this.#row(id);
      if (!row) throw refuse('TRY_AGAIN');
      if (row.body_hash !== body) throw refuse('IDEMPOTENCY_KEY_REUSED');
      if (row.answer) return { state: 'done' as const, ...this.#open(claim, row.answer) };
      const running = this.#running.get(this.#local(id));
      if (!running || running.since < Date.now() - abandonedMs) {
        this.#begin(id);
        return { state: 'run' as const, commandId: row.command_id, commandAt: row.command_at, retry: true };
      }
      await withinPatience(running.done);
    }
  }

  #begin(id: string): void {
    const { promise: done, resolve: finish } = Promise.withResolvers<void>();
    this.#running.set(this.#local(id), { done, finish, since: Date.now() });
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

async function withinPatience(done: Promise<void>): Promise<void> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(refuse('IDEMPOTENCY_IN_PROGRESS', undefined, { retryAfter: 1 })), patienceMs);
  try {
    await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
  }
}

export const oldestKept = (now: Instant): Instant => new Date(Date.parse(now) - keptDays * 86_400_000).toISOString();

@Handles(ClaimRequest, CompleteRequest)
export class RequestCommands {
  constructor(private readonly requests: Requests) {}

  execute(command: ClaimRequest | CompleteRequest) {
    return command instanceof CompleteRequest ? this.requests.complete(command) : this.requests.claim(command);
  }
}
