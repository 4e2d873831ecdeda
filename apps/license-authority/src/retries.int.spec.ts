import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { AssignLicense, GetGenerator, IssueLicense, StartBatch } from '@keyledger/contracts';
import type { JobState } from '@keyledger/domain';
import { EventStores, SnapshotStores, SqliteEventStores, SqliteSnapshots } from '@keyledger/event-store';
import { newCommandId, refuse, runIn, systemContext, type LicenseId, type MessageContext } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import type { Message } from '@keyledger/messaging';
import { idOf, licenseKey } from '@keyledger/testing';
import { StartCommands } from './job.handlers.ts';
import { Jobs } from './job.worker.ts';
import { IssueCommands, LicenseCommands } from './license.handlers.ts';
import { Licenses } from './streams.ts';

const environment = 'staging';
const now = '2026-11-21T12:00:00.000Z';
const [productId, generatorId, customerId] = [idOf('prd'), idOf('gen'), idOf('cus')];
const offer = { productId, planId: null, terms: {}, meters: [], keyFormat: { kind: 'uuid' } };

describe('A message whose answer was lost', () => {
  let folder: string;
  let stores: SqliteEventStores;
  let snapshots: SqliteSnapshots;
  /** What the catalog says of everything that is referred to. */
  let isThere: boolean;
  let commands: { issue: IssueCommands; license: LicenseCommands; start: StartCommands };

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'retries-'));
    stores = await SqliteEventStores.open({ [environment]: join(folder, 'events.db') });
    snapshots = new SqliteSnapshots(join(folder, 'snapshots.db'));
    isThere = true;
    const events = new EventStores(stores.entries());
    const keyrings = new Keyrings([[environment, await Keyring.open({ masterKey: new Uint8Array(32), environment, dataKeys: new MemoryDataKeys() })]]);
    const licenses = new Licenses(events, keyrings, new SnapshotStores([[environment, snapshots]]));
    const messages = { send: async (type: unknown) => (isThere || type === GetGenerator ? offer : Promise.reject(refuse('PRODUCT_ARCHIVED'))) } as never;
    const nothing = async () => undefined;
    commands = {
      issue: new IssueCommands(licenses, { make: () => licenseKey(), remember: () => undefined } as never, messages),
      license: new LicenseCommands(licenses, messages, { complete: (view: object) => view } as never),
      start: new StartCommands(new Jobs(events, keyrings), { of: (job: JobState) => job } as never, { reserve: nothing, open: nothing } as never, { look: () => undefined } as never, messages),
    };
  });
  afterEach(async () => {
    snapshots.close();
    await stores.close();
    rmSync(folder, { recursive: true });
  });

  const run = (message: Message, more: Partial<MessageContext> = {}): Promise<unknown> => runIn({ ...systemContext(environment, now), ...more }, () => {
    if (message instanceof IssueLicense) return commands.issue.execute(message);
    return message instanceof StartBatch ? commands.start.execute(message) : commands.license.execute(message as AssignLicense);
  });
  const issue = () => Object.assign(new IssueLicense(), { productId });

  it.each<[string, (licenseId: LicenseId) => Message]>([
    ['issues a license', issue],
    ['assigns one', (licenseId) => Object.assign(new AssignLicense(), { licenseId, customerId })],
    ['asks for many', () => Object.assign(new StartBatch(), { generatorId, count: 3 })],
  ])('and that %s is answered as the first time, though what it refers to has gone since', async (_, messageOn) => {
    const sent = { commandId: newCommandId() };
    const { id } = await run(issue()) as { id: LicenseId };
    const first = await run(messageOn(id), sent);
    isThere = false;
    expect(await run(messageOn(id), { ...sent, retry: true })).toEqual(first);
    await expect(run(messageOn(id), { retry: true })).rejects.toMatchObject({ code: 'PRODUCT_ARCHIVED' });
    expect(await stores.of(environment).head()).toBe(2);
  });
});
