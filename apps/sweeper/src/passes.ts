import { setTimeout as sleep } from 'node:timers/promises';
import { DueLicenseBacklog, DueLicenses, DueUsage, DueUsageBacklog, EvaluateQuotas, LapsedLeaseBacklog, LapsedLeases, LapseLeases, SweepLicenses, type Backlog } from '@keyledger/contracts';
import type { Transitions } from '@keyledger/domain';
import { isTransient, newCommandId, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { Fields, Message, MessageClient, MessageType, ResultOf } from '@keyledger/messaging';

/** Something that is due, and since when. */
export interface Subject {
  readonly id: string;
  readonly dueAt: Instant;
}

/**
 * One kind of work that falls due: where to ask what is due, and which owner records it. The owner finds it through an index, so that the cost
 * grows only with what is due. Repeating a command is harmless: the owner decides what is still to be done.
 */
export interface Pass {
  readonly name: string;
  /** What is due by `until`, beyond a place. */
  backlog(until: Instant, after?: Subject): Promise<Backlog>;
  /** Longest due first. */
  due(until: Instant, after: Subject | undefined, limit: number): Promise<readonly Subject[]>;
  /** Sends ordinary commands. A dry run answers what they would do. */
  settle(subjects: readonly Subject[], until: Instant, dryRun: boolean): Promise<Transitions>;
}

/** Sends to another service, and is patient with one that is just being replaced. */
export type Ask = <M extends Message>(type: MessageType<M>, fields: Fields<M>) => Promise<ResultOf<M>>;

/** Passes that depend on each other, in the order in which they run, each day of a longer absence by itself. A failure in one group does not stop another. */
export type Passes = readonly Pass[];
export const passesOver = (ask: Ask): readonly Passes[] => [[usage(ask), licenses(ask)], [leases(ask)]];

/** Compares ended days with the quotas. Before the licenses: a quota that is met again at the very end of its grace is not restricted. */
const usage = (ask: Ask): Pass => ({
  name: 'usage',
  backlog: (until, after) => ask(DueUsageBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(DueUsage, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(EvaluateQuotas, { licenseIds: subjects.map(({ id }) => id as LicenseId), until, dryRun }),
});

/** Expiry, trials, reminders, ends of overage graces: everything a license decides by itself. */
const licenses = (ask: Ask): Pass => ({
  name: 'licenses',
  backlog: (until, after) => ask(DueLicenseBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(DueLicenses, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(SweepLicenses, { licenseIds: subjects.map(({ id }) => id as LicenseId), until, dryRun }),
});

/** Silent instances: their heartbeats are missed, their floating seats become free. */
const leases = (ask: Ask): Pass => ({
  name: 'leases',
  backlog: (until, after) => ask(LapsedLeaseBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(LapsedLeases, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(LapseLeases, { activationIds: subjects.map(({ id }) => id as ActivationId), until, dryRun }),
});

const askAgainAfterMs = 200;
/** In total, because a service that hangs uses up the full timeout of every message. */
const patienceMs = 60_000;

export const patiently = (messages: MessageClient, signal: AbortSignal): Ask => async (type, fields) => {
  const commandId = newCommandId();
  const until = performance.now() + patienceMs;
  for (;;) {
    try {
      return await messages.send(type, fields, { timeoutMs: until - performance.now(), context: { commandId } });
    } catch (error) {
      if (!isTransient(error) || performance.now() + askAgainAfterMs >= until || signal.aborted) throw error;
      await sleep(askAgainAfterMs, undefined, { signal }).catch(() => undefined);
    }
  }
};
