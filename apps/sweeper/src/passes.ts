import { setTimeout as sleep } from 'node:timers/promises';
import { DueLicenseBacklog, DueLicenses, DueUsage, DueUsageBacklog, EvaluateQuotas, LapsedLeaseBacklog, LapsedLeases, LapseLeases, SweepLicenses, type Backlog } from '@keyledger/contracts';
import type { Transitions } from '@keyledger/domain';
import { isPassing, newCommandId, type ActivationId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { Fields, Message, MessageClient, MessageType, ResultOf } from '@keyledger/messaging';

/** Something that is due, and since when. */
export interface Subject {
  readonly id: string;
  readonly dueAt: Instant;
}

/**
 * One kind of what time brings about: where to ask what is due, and whom to tell. Whoever answers finds it through an index, so that the cost
 * grows with what is due. What is told twice is told once: the owner decides what is still to be done.
 */
export interface Pass {
  readonly name: string;
  /** What is due by `until`, beyond a place. */
  backlog(until: Instant, after?: Subject): Promise<Backlog>;
  /** The longest due first. */
  due(until: Instant, after: Subject | undefined, limit: number): Promise<readonly Subject[]>;
  /** Ordinary commands. A dry run answers what they would bring about. */
  settle(subjects: readonly Subject[], until: Instant, dryRun: boolean): Promise<Transitions>;
}

/** Asks another service, and has patience with one that is just being replaced. */
export type Ask = <M extends Message>(type: MessageType<M>, fields: Fields<M>) => Promise<ResultOf<M>>;

/** Passes that wait for each other, in the order in which they are worked through, each day of a longer absence by itself. What keeps one group from going on is no hindrance to another. */
export type Passes = readonly Pass[];
export const passesOver = (ask: Ask): readonly Passes[] => [[usage(ask), licenses(ask)], [leases(ask)]];

/** Days that are over are compared with the quotas. Before the licenses: a quota that is met again at the very end of its grace is not restricted. */
const usage = (ask: Ask): Pass => ({
  name: 'usage',
  backlog: (until, after) => ask(DueUsageBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(DueUsage, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(EvaluateQuotas, { licenseIds: subjects.map(({ id }) => id as LicenseId), until, dryRun }),
});

/** Expiry, trials, reminders, ends of overage graces: all that a license knows by itself. */
const licenses = (ask: Ask): Pass => ({
  name: 'licenses',
  backlog: (until, after) => ask(DueLicenseBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(DueLicenses, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(SweepLicenses, { licenseIds: subjects.map(({ id }) => id as LicenseId), until, dryRun }),
});

/** Instances that nobody has heard of: their heartbeats are lost, floating seats are free again. */
const leases = (ask: Ask): Pass => ({
  name: 'leases',
  backlog: (until, after) => ask(LapsedLeaseBacklog, { until, after }),
  due: async (until, after, limit) => (await ask(LapsedLeases, { until, after, limit })).data,
  settle: (subjects, until, dryRun) => ask(LapseLeases, { activationIds: subjects.map(({ id }) => id as ActivationId), until, dryRun }),
});

const askAgainAfterMs = 200;
/** In all: one that hangs takes its time with each answer that it does not give. */
const patienceMs = 60_000;

export const patiently = (messages: MessageClient, signal: AbortSignal): Ask => async (type, fields) => {
  const commandId = newCommandId();
  const until = performance.now() + patienceMs;
  for (;;) {
    try {
      return await messages.send(type, fields, { timeoutMs: until - performance.now(), context: { commandId } });
    } catch (error) {
      if (!isPassing(error) || performance.now() + askAgainAfterMs >= until || signal.aborted) throw error;
      await sleep(askAgainAfterMs, undefined, { signal }).catch(() => undefined);
    }
  }
};
