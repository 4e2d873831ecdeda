import { describe, expect, it } from '@jest/globals';
import { LoseHeartbeats, SweepLicenses } from '@keyledger/contracts';
import { context, newCommandId, refuse, runIn, systemContext, type LicenseId } from '@keyledger/kernel';
import { idOf } from '@keyledger/testing';
import { SweepCommands } from './sweep.handlers.ts';

const now = '2026-11-21T12:00:00.000Z';
const [good, unreadable, gone] = [idOf('lic', 1), idOf('lic', 2), idOf('lic', 3)];
const [box, lost] = [idOf('act', 1), idOf('act', 2)];

/** One license of which something is due, one that cannot be folded, one that is gone. */
function swept(failure: Error, asked: SweepLicenses | LoseHeartbeats) {
  const logged: unknown[] = [];
  const answer = async (id: LicenseId) => {
    if (id === good) return [{ type: 'LicenseExpired' }];
    throw id === gone ? refuse('LICENSE_NOT_FOUND') : failure;
  };
  const commands = new SweepCommands({ run: answer, load: answer } as never, { error: (told: unknown) => logged.push(told) } as never);
  return { logged, answered: runIn(systemContext('staging', now), () => commands.execute(asked)) };
}
const sweep = (dryRun = false) => Object.assign(new SweepLicenses(), { licenseIds: [unreadable, gone, good], until: now, dryRun });

describe('What is due of many licenses', () => {
  it.each([false, true])('is said of all but the one that cannot be read, which is named (dry run: %s)', async (dryRun) => {
    const { answered, logged } = swept(new Error('no such event'), sweep(dryRun));
    expect(await answered).toEqual({ LicenseExpired: 1 });
    expect(logged).toMatchObject([{ licenseId: unreadable }]);
  });

  it('is due by the later of two clocks, that of whoever asks and the own', async () => {
    const seen: string[] = [];
    const commands = new SweepCommands({ run: async () => (seen.push(context().now), []) } as never, {} as never);
    const [earlier, later] = ['2026-11-21T11:59:59.000Z', '2026-11-21T12:00:01.000Z'];
    for (const until of [earlier, later]) await runIn(systemContext('staging', now), () => commands.execute(Object.assign(new SweepLicenses(), { licenseIds: [good], until, dryRun: false })));
    expect(seen).toEqual([now, later]);
  });

  it('is asked for again when nobody answers', async () => {
    await expect(swept(refuse('UNAVAILABLE'), sweep()).answered).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  it('names the instances of which nothing could be said', async () => {
    const instances = [{ licenseId: unreadable, activationId: lost, dueAt: now }, { licenseId: good, activationId: box, dueAt: now }];
    expect(await swept(new Error('no such event'), Object.assign(new LoseHeartbeats(), { instances, dryRun: false })).answered).toEqual({ transitions: { LicenseExpired: 1 }, failed: [lost] });
  });

  it('is said of an instance under the same id whoever else is asked about, so that a second try takes none for done that another was', async () => {
    const ran: string[] = [];
    const commands = new SweepCommands({ run: async (_: LicenseId, { activationId }: { activationId: string }) => (ran.push(`${activationId} ${context().commandId}`), []) } as never, {} as never);
    const pass = newCommandId();
    const ask = (...ids: readonly (typeof box)[]) => runIn(systemContext('staging', now, pass), () =>
      commands.execute(Object.assign(new LoseHeartbeats(), { instances: ids.map((activationId) => ({ licenseId: good, activationId, dueAt: now })), dryRun: false })));
    await ask(box, lost);
    await ask(lost);
    expect(ran[2]).toBe(ran[1]);
    expect(ran[0]?.split(' ')[1]).not.toBe(ran[1]?.split(' ')[1]);
  });
});
