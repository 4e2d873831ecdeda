import { Injectable } from '@nestjs/common';
import type { WebhookDeliveryView } from '@keyledger/contracts';
import type { AttemptOutcome } from '@keyledger/domain';
import { addSeconds, type Instant, type WebhookDeliveryId, type WebhookEndpointId } from '@keyledger/kernel';
import { inPieces, ROWS_AT_ONCE, StateDatabases, type Database, type Statement } from '@keyledger/read-models';
import type { Answer } from './egress.ts';

/** All mail is one target; each webhook endpoint is another. */
export const MAIL = 'mail';

/** A webhook or a mail to be sent. */
export interface Parcel {
  readonly id: string;
  readonly target: string;
  readonly type: string;
  readonly timestamp: Instant;
  readonly body: string;
}
/** A parcel that this process may send, for a while. */
export interface ClaimedParcel extends Parcel {
  readonly attempts: number;
  /** A process with a newer number has taken the claim over. */
  readonly claimedUntil: number;
}

/** Longer than an attempt may take: after that its process is presumed dead, and another one tries. A mail server may take its time at each step. */
const claimMs = (target: string): number => (target === MAIL ? 120_000 : 20_000);
export const KEPT_DAYS = 30;

/** Everything to be sent from the message's environment, and its outcome. */
@Injectable()
export class Outbox {
  constructor(private readonly databases: StateDatabases) {}

  /** Targets with due parcels, and whether they have failed since they last accepted one. */
  async dueTargets(now: Instant): Promise<readonly { readonly target: string; readonly isFailing: boolean }[]> {
    const due = "select 1 from notifier_outbox o where o.target = t.id and o.status = 'pending' and o.next_at <= ? and o.claimed_until <= ?";
    const { rows } = await this.#here().run<{ id: string; failing_since: Instant | null }>(
      `select t.id, t.failing_since from ${targets} where exists (${due})`, [Date.parse(now), Date.now()]);
    return rows.map(({ id, failing_since: since }) => ({ target: id, isFailing: since !== null }));
  }

  /** Claims due parcels of each target, up to `room`, longest due first; no other process gets them while they are claimed. All at once: each target for itself, many would wait for as many flushes and answers. */
  async claim(wanted: readonly { readonly target: string; readonly room: number }[], now: Instant): Promise<readonly ClaimedParcel[]> {
    if (wanted.length === 0) return [];
    const at = Date.now();
    const free = (target: string, room: string) => `select id from notifier_outbox where target = ${target} and status = 'pending' and next_at <= ? and claimed_until <= ? order by next_at, id limit ${room}`;
    const database = this.#here();
    const rows = database.dialect === 'postgres'
      ? (await database.run<Row>(
        `update notifier_outbox set claimed_until = case target when '${MAIL}' then ?::bigint else ? end where id = any (array(
          select o.id from json_to_recordset(?::json) as w(target text, room integer) cross join lateral (${free('w.target', 'w.room')} for update skip locked) o)) returning *`,
        [at + claimMs(MAIL), at + claimMs(''), JSON.stringify(wanted.map(({ target, room }) => ({ target, room }))), Date.parse(now), at])).rows
      : (await database.batch(wanted.map(({ target, room }) => (
        { sql: `update notifier_outbox set claimed_until = ? where id in (${free('?', '?')}) returning *`, params: [at + claimMs(target), target, Date.parse(now), at, room] })))).flatMap((answer) => answer.rows as unknown as readonly Row[]);
    return rows.map(({ id, target, type, timestamp, body, attempts }) => ({ id, target, type, timestamp, body, attempts, claimedUntil: at + claimMs(target) }));
  }

  /** Records the outcome of an attempt, unless another process has taken the claim over. Answers since when the target has been failing. */
  async settle({ id, target, attempts, claimedUntil }: ClaimedParcel, outcome: AttemptOutcome, { status, text, error }: Answer, ms: number, now: Instant): Promise<Instant | null> {
    const database = this.#here();
    const failed = outcome.is !== 'delivered';
    const next = outcome.is === 'retry' ? { status: 'pending', at: Date.parse(now) + outcome.afterMs } : { status: failed ? 'failed' : 'delivered', at: Date.parse(now) };
    const settled = {
      sql: `update notifier_outbox set status = ?, next_at = ?, claimed_until = 0, attempts = ?, last_at = ?, last_status = ?, last_error = ?, last_ms = ?, response = ?
        where id = ? and status = 'pending' and claimed_until = ?`,
      params: [next.status, next.at, attempts + 1, now, status, error, ms, text, id, claimedUntil],
    };
    const since = failed ? { sql: 'update notifier_endpoints set failing_since = ? where id = ? and failing_since is null', params: [now, target] }
      : { sql: 'update notifier_endpoints set failing_since = null where id = ? and failing_since is not null', params: [target] };
    // As one statement, because each one of a transaction waits for an answer of its own.
    if (database.dialect === 'postgres') await database.run(`with settled as (${settled.sql}) ${since.sql}`, [...settled.params, ...since.params]);
    else await database.batch([settled, since]);
    if (!failed) return null;
    const { rows: [row] } = await database.run<{ failing_since: Instant | null }>('select failing_since from notifier_endpoints where id = ?', [target]);
    return row?.failing_since ?? null;
  }

  /** Releases a parcel that was not tried. */
  async release({ id, claimedUntil }: ClaimedParcel): Promise<void> {
    await this.#here().run('update notifier_outbox set claimed_until = 0 where id = ? and claimed_until = ?', [id, claimedUntil]);
  }

  /** Releases all claims, where only this process can have made any and it has just started. */
  async releaseAll(): Promise<void> {
    await this.#here().run("update notifier_outbox set claimed_until = 0 where status = 'pending' and claimed_until > 0");
  }

  /** Gives a parcel up: it will not be tried any more. */
  async drop({ id }: Pick<Parcel, 'id'>, reason: string): Promise<void> {
    await this.#here().run("update notifier_outbox set status = 'failed', last_error = ? where id = ? and status = 'pending'", [reason, id]);
  }

  async add(parcel: Parcel): Promise<void> {
    await this.#here().batch(putting([parcel]));
  }

  async find(id: WebhookDeliveryId): Promise<WebhookDeliveryView | undefined> {
    const { rows: [row] } = await this.#here().run<Row>('select * from notifier_outbox where id = ?', [id]);
    return row && deliveryOf(row);
  }

  /** Starts a parcel over, whatever its outcome. */
  async again(id: WebhookDeliveryId, now: Instant): Promise<void> {
    await this.#here().run("update notifier_outbox set status = 'pending', attempts = 0, next_at = ?, claimed_until = 0 where id = ?", [Date.parse(now), id]);
  }

  /** Queues failed parcels since then again; answers how many. */
  async againSince(target: WebhookEndpointId, since: Instant, now: Instant): Promise<number> {
    const failed = "select id from notifier_outbox where target = ? and (timestamp, id) > (?, ?) and status = 'failed' order by timestamp, id limit ?";
    const database = this.#here();
    let requeued = 0;
    // Each row once, in their order: what is tried again may fail again before the last row is reached.
    for (let [after, last] = [since, '']; ;) {
      const { rows } = await database.run<Row>(
        `update notifier_outbox set status = 'pending', attempts = 0, next_at = ?, claimed_until = 0 where ${among(database, failed, 'for update')} returning timestamp, id`, [Date.parse(now), target, after, last, ROWS_AT_ONCE]);
      requeued += rows.length;
      if (rows.length < ROWS_AT_ONCE) return requeued;
      ({ timestamp: after, id: last } = rows.reduce((one, other) => (one.timestamp + one.id > other.timestamp + other.id ? one : other)));
    }
  }

  /** Ready to be read page by page. */
  list({ endpointId, status }: { readonly endpointId?: string | undefined; readonly status?: string | undefined }, database = this.#here()) {
    const all = database.sql<{ notifier_outbox: Row }>().selectFrom('notifier_outbox').selectAll();
    const of = endpointId === undefined ? all.where('target', '!=', MAIL) : all.where('target', '=', endpointId);
    return status === undefined ? of : of.where('status', '=', status);
  }

  /** How many parcels are waiting to be sent, 10,000 at most, and since when the oldest due one has been due. */
  async waiting(now: Instant): Promise<{ readonly pending: number; readonly lateMs: number }> {
    const database = this.#here();
    const theirs = `${pendingOf(database)} where o.target = t.id and o.status = 'pending'`;
    const isPostgres = database.dialect === 'postgres';
    const counted = isPostgres ? `lateral (select 1 from ${theirs} order by o.next_at limit 10000) as theirs` : theirs;
    const answers = await database.batch([
      // PostgreSQL knows what waits for a target on average only, and would read and sort all that waits for one that is down. Not to sort leaves it the index.
      ...(isPostgres ? [{ sql: 'set local enable_sort = off' }] : []),
      { sql: `select (select count(*) from (select 1 from ${targets} cross join ${counted} limit 10000) as counted) as n, min((select o.next_at from ${theirs} order by o.next_at limit 1)) as oldest from ${targets}` },
    ]);
    const row = answers.at(-1)?.rows[0] as { readonly n: number; readonly oldest: number | null } | undefined;
    return { pending: Number(row?.n ?? 0), lateMs: row?.oldest === null || row?.oldest === undefined ? 0 : Math.max(0, Date.parse(now) - Number(row.oldest)) };
  }

  async forgetOld(now: Instant): Promise<void> {
    await inPieces(this.#here(), "delete from notifier_outbox where id in (select id from notifier_outbox where timestamp < ? and status <> 'pending' order by timestamp, id limit ?)",
      [addSeconds(now, -KEPT_DAYS * 86_400)]);
  }

  #here() {
    return this.databases.here();
  }
}

/** Once, however often it is put there. */
export const putting = (parcels: readonly Parcel[]): Statement[] => (parcels.length === 0 ? [] : [{
  sql: `insert into notifier_outbox (id, target, type, timestamp, body, status, attempts, next_at, claimed_until) values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (id) do nothing`,
  many: parcels.map(({ id, target, type, timestamp, body }) => [id, target, type, timestamp, body, 'pending', 0, Date.parse(timestamp), 0]),
}]);

const targets = `(select id, failing_since from notifier_endpoints where deleted = 0 and enabled = 1 union all select '${MAIL}', null) as t`;
/** SQLite would choose the index of all deliveries, and read past what was delivered or has failed long ago each time. */
const pendingOf = ({ dialect }: Database): string => `notifier_outbox o${dialect === 'sqlite' ? ' indexed by notifier_outbox_due' : ''}`;
const isOver = '(deleted = 1 or enabled = 0)';
/**
 * Gives up some of what waits for endpoints that are over; answers whether more may wait. What is being sent is left: it may have been accepted already.
 * PostgreSQL locks the endpoints' rows as well, so that once an endpoint is enabled again nothing of it is given up any more. `cross join` makes SQLite
 * begin with the endpoints, not with all that waits.
 */
export async function giveUpSome(database: Database): Promise<boolean> {
  const theirs = "target = e.id and status = 'pending' and claimed_until <= ?";
  const isPostgres = database.dialect === 'postgres';
  // Where much waits for others PostgreSQL would read the whole table; in the order of the index it has no choice.
  const waiting = isPostgres ? `select o.id from notifier_endpoints e cross join lateral (select id from notifier_outbox where ${theirs} order by next_at limit ${ROWS_AT_ONCE}) o where ${isOver} limit ?`
    : `select o.id from notifier_endpoints e cross join ${pendingOf(database)} where ${isOver} and ${theirs} limit ?`;
  const { changes } = await database.run(
    `update notifier_outbox set status = 'failed', last_error = (select case deleted when 1 then 'the endpoint was deleted' else 'the endpoint was disabled' end from notifier_endpoints where id = target)
      where ${among(database, waiting, 'for update skip locked')}`, [Date.now(), ROWS_AT_ONCE]);
  return changes === ROWS_AT_ONCE;
}

/** An array, because PostgreSQL may look for the rows of a list more than once, and skip others each time, or read all of the table to join it. */
const among = ({ dialect }: Database, ids: string, lock: string): string => (dialect === 'postgres' ? `id = any (array(${ids} ${lock}))` : `id in (${ids})`);

interface Row {
  id: string;
  target: string;
  type: string;
  timestamp: string;
  body: string;
  status: string;
  attempts: number;
  next_at: number;
  last_at: string | null;
  last_status: number | null;
  last_error: string | null;
  last_ms: number | null;
  response: string | null;
}

export const deliveryOf = (row: Row): WebhookDeliveryView => ({
  id: row.id as WebhookDeliveryId, endpointId: row.target as WebhookEndpointId, type: row.type, timestamp: row.timestamp, status: row.status as WebhookDeliveryView['status'], attempts: row.attempts,
  nextAttemptAt: row.status === 'pending' ? new Date(row.next_at).toISOString() : null, lastAttemptAt: row.last_at, responseStatus: row.last_status, responseBody: row.response, error: row.last_error,
  durationMs: row.last_ms, payload: JSON.parse(row.body) as WebhookDeliveryView['payload'],
});
