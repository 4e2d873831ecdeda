import { AcknowledgeChanges, NextChanges } from '@keyledger/contracts';
import { issued, statusOf, verdictOf, type Enforcement } from '@keyledger/domain';
import { EventStores, type EventMetadata } from '@keyledger/event-store';
import { context, isId, Refusal, refuse, type ActivationId, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Stopping } from '@keyledger/process';
import { StateDatabases, type Migration } from '@keyledger/read-models';
import { Injectable } from '@nestjs/common';
import { LeaseLedger } from './leases.ts';
import type { KnownLicense } from './verdict-cache.ts';
import { VerdictCaches } from './verdict-caches.ts';

export const acksTable: Migration = {
  name: 'activation-3-acks',
  async up({ run }) {
    await run('create table activation_acks (reader text primary key, license_id text not null, seq bigint not null, at text not null)');
    await run('create index activation_acks_license_id on activation_acks (license_id)');
  },
};

type Reader = LicenseId | ActivationId;

/** The last change each reader of a license's stream has acknowledged. A reader is an activation, or the license as a whole. */
@Injectable()
export class Acknowledgements {
  constructor(private readonly databases: StateDatabases, private readonly leases: LeaseLedger) {}

  /** A heartbeat answered since then counts as an acknowledgement too. Undefined: the reader was never heard of. */
  async of(reader: Reader): Promise<number | undefined> {
    const [acks, [lease]] = await Promise.all([this.ofEach([reader]), this.leases.of(isId('act', reader) ? [reader] : [])]);
    const seq = acks.get(reader);
    return seq === undefined ? lease?.told_seq : Math.max(seq, lease?.told_seq ?? seq);
  }

  async ofEach(readers: readonly Reader[]): Promise<ReadonlyMap<Reader, number>> {
    if (readers.length === 0) return new Map();
    const { rows } = await this.databases.here().run<{ reader: Reader; seq: number }>(
      `select reader, seq from activation_acks where reader in (${readers.map(() => '?').join(', ')})`, readers);
    return new Map(rows.map(({ reader, seq }) => [reader, Number(seq)]));
  }

  async take(reader: Reader, licenseId: LicenseId, seq: number): Promise<void> {
    await this.databases.here().run(
      `insert into activation_acks (reader, license_id, seq, at) values (?, ?, ?, ?) on conflict (reader) do update set seq = excluded.seq, at = excluded.at
        where excluded.seq > activation_acks.seq`, [reader, licenseId, seq, context().now]);
  }

  async forget(licenseId: LicenseId): Promise<void> {
    await this.databases.here().run('delete from activation_acks where license_id = ?', [licenseId]);
  }
}

const changesPerAnswer = 100;

/** Waits for changes of a license. The service that holds the client's stream asks repeatedly, so request and answer are all that is needed. */
@Handles(NextChanges)
export class NextChangesQuery {
  constructor(
    private readonly caches: VerdictCaches, private readonly events: EventStores, private readonly acks: Acknowledgements, private readonly stopping: Stopping,
  ) {}

  async execute(asked: NextChanges) {
    const { licenseId, licenseKey, activationId, after, waitMs } = asked;
    const cache = this.caches.here();
    const patience = new Patience(waitMs, this.stopping.signal);
    const stop = cache.onChange(licenseId, patience.end);
    try {
      let known = await cache.get(licenseId, licenseKey);
      if (after === undefined) return { ...standing(known, activationId), after: (await this.acks.of(readerOf(known, activationId))) ?? known.revision, changes: [], ended: false };
      if (known.revision <= after) {
        await patience.ended;
        known = await cache.get(licenseId, licenseKey);
      }
      const changes = known.revision > after ? await this.#changes(licenseId, after) : [];
      return { ...standing(known, activationId), after: changes.at(-1)?.seq ?? after, changes, ended: false };
    } catch (error) {
      if (after !== undefined && error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') return { ...gone, seq: after, after };
      throw error;
    } finally {
      stop();
      patience.end();
    }
  }

  async #changes(licenseId: LicenseId, after: number) {
    const recorded = await this.events.here().readStream(`license-${licenseId}`, { from: after + 1, limit: changesPerAnswer });
    return recorded.map(({ revision, type, metadata }) => ({ seq: revision, type, at: (metadata as unknown as EventMetadata).occurredAt }));
  }
}

@Handles(AcknowledgeChanges)
export class AcknowledgeCommand {
  constructor(private readonly caches: VerdictCaches, private readonly acks: Acknowledgements) {}

  async execute({ licenseId, licenseKey, activationId, seq }: AcknowledgeChanges) {
    const known = await this.caches.here().get(licenseId, licenseKey);
    const reader = readerOf(known, activationId);
    await this.acks.take(reader, licenseId, Math.min(seq, known.revision));
    return { acknowledged: (await this.acks.of(reader)) ?? known.revision };
  }
}

function readerOf({ state }: KnownLicense, activationId: ActivationId | undefined): Reader {
  const license = issued(state);
  if (activationId === undefined) return license.id;
  if (!isId('act', activationId) || !license.activations.has(activationId)) throw refuse('INSTANCE_NOT_FOUND');
  return activationId;
}

/** Of the appliance, or of the license by itself. */
function standing({ state, revision: seq }: KnownLicense, activationId: ActivationId | undefined): { seq: number; status: string; code: string; enforcement: Enforcement } {
  const { now } = context();
  const license = issued(state);
  const fingerprint = activationId && license.activations.get(activationId)?.fingerprint;
  const { code, enforcement } = activationId
    ? verdictOf(license, undefined, { instanceId: activationId, ...(fingerprint && { fingerprint }) }, now)
    : verdictOf({ ...license, terms: { ...license.terms, binding: 'none' } }, undefined, {}, now);
  return { seq, status: statusOf(license, now), code, enforcement };
}

/** The license has been erased, or its key is another one now. */
const gone = { status: 'revoked', code: 'NOT_FOUND', enforcement: 'LOCKED' as const, changes: [], ended: true };

/** Waits until `end` is called, the time is over, or the process is to stop. */
class Patience {
  readonly #over = Promise.withResolvers<void>();
  readonly #timer: NodeJS.Timeout;
  readonly #signal: AbortSignal;

  constructor(ms: number, signal: AbortSignal) {
    this.#signal = signal;
    this.#timer = setTimeout(this.end, ms);
    signal.addEventListener('abort', this.end);
    if (signal.aborted) this.end();
  }

  get ended(): Promise<void> {
    return this.#over.promise;
  }

  readonly end = (): void => {
    clearTimeout(this.#timer);
    this.#signal.removeEventListener('abort', this.end);
    this.#over.resolve();
  };
}
