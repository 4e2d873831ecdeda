import { afterAll, beforeAll, describe, it } from '@jest/globals';
import { startNats, type NatsOptions, type RunningNats } from './nats.ts';
import { obtain } from './obtain.ts';
import { startPostgres, type PostgresOptions, type RunningPostgres } from './postgres.ts';

const names = { nats: 'NATS', postgres: 'PostgreSQL' } as const;

/** A suite with its own server, available from its first hook on; without a server, a skipped test says so. */
export function describeWith(server: 'nats', title: string, suite: (server: () => RunningNats) => void, options?: NatsOptions): void;
export function describeWith(server: 'postgres', title: string, suite: (server: () => RunningPostgres) => void, options?: PostgresOptions): void;
export function describeWith(server: 'nats' | 'postgres', title: string, suite: (server: () => never) => void, options?: NatsOptions | PostgresOptions): void {
  describe(`${title} (${names[server]})`, () => {
    if (!obtain(server)) {
      it.skip(`${names[server]} is not here: NOTHING of ${title} was tested`, () => undefined);
      return;
    }
    let running: RunningNats | RunningPostgres | undefined;
    beforeAll(async () => {
      running = await (server === 'nats' ? startNats(options as NatsOptions) : startPostgres(options as PostgresOptions));
    }, 60_000);
    afterAll(() => running?.stop(), 60_000);
    suite(() => {
      if (!running) throw new Error(`${names[server]} is started in beforeAll; ask for it in a test or a hook`);
      return running as never;
    });
  });
}
