import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { ClaimRequest, CompleteRequest } from '@keyledger/contracts';
import { addDays, addSeconds, refuse, runIn, systemContext, type Instant } from '@keyledger/kernel';
import { Keyring, Keyrings, MemoryDataKeys } from '@keyledger/keyring';
import { openDatabases, StateDatabases, type Database } from '@keyledger/read-models';
import { RequestCommands, Requests, requestsTable } from './idempotency.handlers.ts';

const now = '2026-11-21T12:00:00.000Z';
const hour = 3_600;
const request = { caller: 'key_1', route: 'POST /v1/orders', key: 'k' };

describe('A request with an Idempotency-Key', () => {
  let folder: string;
  let database: Database;
  let keyrings: Keyrings;

  /** On the same tables as the others. */
  function aProcess() {
    const requests = new Requests(new StateDatabases([['staging', database]]), keyrings);
    const commands = new RequestCommands(requests);
    const run = <T>(work: () => T, at: Instant = now) => runIn(systemContext('staging', at), work);
    return {
      claim: (at?: Instant, other: Partial<ClaimRequest> = {}) => run(() => commands.execute(Object.assign(new ClaimRequest(), { ...request, bodyHash: 'x', ...other })), at),
      complete: (status: number, body: string) => run(() => commands.execute(Object.assign(new CompleteRequest(), { ...request, status, body, headers: {} }))),
      running: () => requests.running,
      forgetOld: (at: Instant) => run(() => requests.forgetOld(at), at),
    };
  }

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), 'idempotency-'));
    database = (await openDatabases({ kind: 'state', environments: ['staging'], at: { directory: folder }, entities: [], migrations: [requestsTable] })).of('staging');
    keyrings = new Keyrings([['staging', await Keyring.open({ masterKey: new Uint8Array(32), environment: 'staging', dataKeys: new MemoryDataKeys() })]]);
  });
  afterEach(async () => {
    await database.close();
    rmSync(folder, { recursive: true });
  });

  it('has one answer, which is the first that is stored, though whoever ran it first is late', async () => {
    const [late, heir] = [aProcess(), aProcess()];
    const first = await late.claim();
    expect(await heir.claim(addSeconds(now, 60))).toEqual({ ...first, retry: true });
    const answer = { status: 201, body: 'the order', headers: {} };
    expect(await heir.complete(201, 'the order')).toEqual(answer);
    expect(await late.complete(409, 'refused')).toEqual(answer);
    expect(await late.claim()).toEqual({ state: 'done', ...answer });
  });

  it('keeps its answer, though another attempt came to none after that', async () => {
    const [here, there] = [aProcess(), aProcess()];
    await here.claim();
    await there.claim();
    await here.complete(201, 'the order');
    await there.complete(0, 'unavailable');
    expect(await there.claim()).toMatchObject({ state: 'done', body: 'the order' });
  });

  it('is another one of another caller, by another route or under another key, and is refused with another body', async () => {
    const here = aProcess();
    const { commandId } = await here.claim() as { commandId: string };
    await here.complete(201, 'the order');
    for (const other of [{ caller: 'key_2' }, { route: 'POST /v1/licenses' }, { key: 'l' }]) {
      expect(await here.claim(now, other)).toMatchObject({ state: 'run', retry: false, commandId: expect.not.stringContaining(commandId) });
    }
    await expect(here.claim(now, { bodyHash: 'y' })).rejects.toMatchObject({ code: 'IDEMPOTENCY_KEY_REUSED' });
  });

  it('that could not be claimed may be sent again at once', async () => {
    const here = aProcess();
    jest.spyOn(database, 'run').mockRejectedValueOnce(refuse('UNAVAILABLE'));
    await expect(here.claim()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(here.running()).toBe(0);
    expect(await here.claim()).toMatchObject({ state: 'run', retry: false });
  });

  it('is run again as the same command where it came to no answer', async () => {
    const here = aProcess();
    const first = await here.claim();
    await here.complete(0, 'unavailable');
    expect(await here.claim(addSeconds(now, 60))).toEqual({ ...first, retry: true });
  });

  it('that another process completes is answered there and then to who waits for it here', async () => {
    const [here, there] = [aProcess(), aProcess()];
    await here.claim();
    const again = here.claim();
    await there.complete(201, 'the order');
    expect(await again).toEqual({ state: 'done', status: 201, body: 'the order', headers: {} });
  });

  it('to which another process could give no answer is run again at once', async () => {
    const [here, there] = [aProcess(), aProcess()];
    const first = await here.claim();
    const again = here.claim();
    await there.complete(0, 'unavailable');
    expect(await again).toEqual({ ...first, retry: true });
    const next = there.claim();
    expect(await next).toEqual({ ...first, retry: true });
    // Whoever comes now waits for that attempt.
    expect((await database.run('select answer from access_requests')).rows).toEqual([{ answer: null }]);
    await here.complete(201, 'the order');
    expect(await there.claim()).toMatchObject({ state: 'done', body: 'the order' });
  });

  it('that is completed elsewhere, or never, takes no memory for long', async () => {
    const requests = aProcess();
    const began = performance.now();
    const time = jest.spyOn(performance, 'now').mockReturnValue(began);
    for (let n = 0; n < 10; n++) await requests.claim(now, { key: `k${n}` });
    expect(requests.running()).toBe(10);
    time.mockReturnValue(began + 6_001);
    await requests.claim(now, { key: 'another' });
    expect(requests.running()).toBe(1);
    time.mockRestore();
  });

  it('is known for 72 hours, and not for ever', async () => {
    const here = aProcess();
    const first = await here.claim();
    await here.complete(201, 'the order');
    await here.forgetOld(addSeconds(now, 72 * hour));
    expect(await here.claim(addSeconds(now, 72 * hour))).toMatchObject({ state: 'done', body: 'the order' });
    await here.forgetOld(addDays(now, 5));
    const anew = await here.claim(addDays(now, 5));
    expect(anew).toMatchObject({ state: 'run', retry: false });
    expect(anew).not.toMatchObject({ commandId: (first as { commandId: string }).commandId });
  });

  it('is forgotten along with any number of others, and no new one waits for all of them', async () => {
    const here = aProcess();
    await here.claim();
    await database.run(`insert into access_requests (claim, body_hash, command_id, command_at)
      with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 100000) select 'claim ' || n, 'x', 'cmd ' || n, ? from numbers`, [addDays(now, -5)]);
    const order: string[] = [];
    const forgetting = here.forgetOld(now).then(() => order.push('forgotten'));
    await here.claim(now, { key: 'another' }).then(() => order.push('claimed'));
    await forgetting;
    expect(order).toEqual(['claimed', 'forgotten']);
    expect((await database.run('select count(*) as n from access_requests')).rows).toEqual([{ n: 2 }]);
  });
});
