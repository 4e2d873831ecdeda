import { expect, it } from '@jest/globals';
import { context, type Clock } from '@keyledger/kernel';
import { Pools } from './pools.ts';

it('Pools are counted once more, however often that is asked for while they are being counted', async () => {
  const counted: string[] = [];
  const release = Promise.withResolvers<undefined>();
  const current = async () => {
    counted.push(context().environment);
    await release.promise;
    return { run: async () => ({ rows: [] }) };
  };
  const clock = { now: () => '2026-11-22T12:00:00.000Z' } as Clock;
  const pools = new Pools({} as never, { current } as never, {} as never, clock, { poolsLow: () => undefined } as never, {} as never);
  const ask = () => ['staging', 'staging', 'production', 'staging'].forEach((environment) => pools.look(environment));
  ask();
  await new Promise(setImmediate);
  expect(counted).toEqual(['staging', 'production']);
  ask();
  release.resolve(undefined);
  await pools.end();
  expect(counted).toEqual(['staging', 'production', 'staging', 'production']);
  pools.look('staging');
  await pools.end();
  expect(counted).toHaveLength(5);
});
