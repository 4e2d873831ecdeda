import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { accessProjections } from '@keyledger/access';
import { catalogProjections } from '@keyledger/catalog';
import { EventStores } from '@keyledger/event-store';
import { controlEnvironment, environments } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { authorityProjections } from '@keyledger/license-authority';
import { notifierProjections } from '@keyledger/notifier';
import { createLog, Health, Metrics } from '@keyledger/observability';
import { openDatabases, Projector, ReadDatabases, ReadIndex } from '@keyledger/read-models';
import { openStores, storesConfig } from '@keyledger/stores';
import { schemas } from './schemas.ts';

/** All that there are, each in every environment. */
export const services = [accessProjections, catalogProjections, authorityProjections, notifierProjections];
export const everywhere = [controlEnvironment, ...environments];

const host = { log: createLog({ level: 'silent', service: 'test' }), metrics: new Metrics('test', { processMetrics: false }), health: new Health() };

/** Rows of each projection, as the projector writes them out. */
export type Dumps = ReadonlyMap<string, readonly string[]>;

/**
 * What the projections show once they have caught up with the log, from the stores that `env` names. `on`: not from there, but from files in
 * this folder, made from the same log. `anew`: built again first. On files the product must not be running.
 */
export async function dumps(env: NodeJS.ProcessEnv, { on, anew = false }: { on?: string; anew?: boolean } = {}): Promise<Dumps> {
  const stores = await openStores(storesConfig(env), host, schemas);
  const of = <T>(token: abstract new (...args: never[]) => T): T => (stores.providers.find((provider) => 'provide' in provider && provider.provide === token) as { useValue: T }).useValue;
  for (const environment of on === undefined ? [] : everywhere) mkdirSync(join(on as string, environment), { recursive: true });
  const own = on === undefined ? undefined : await openDatabases({ kind: 'read', environments: everywhere, at: { directory: on }, entities: schemas.flatMap((schema) => ('read' in schema ? schema.read : [])) });
  const found = new Map<string, string[]>();
  for (const [environment, store] of of(EventStores).entries()) {
    const database = (own ?? of(ReadDatabases)).of(environment);
    for (const projections of services) {
      const projector = await Projector.start({ store, database, projections, sealing: of(Keyrings).of(environment) });
      if (anew) for (const { name } of projections) await projector.rebuild(name);
      await new ReadIndex(store, projector, 30_000).current();
      const parked = await projector.parked();
      if (parked.length > 0) throw new Error(`Streams of ${environment} are parked: ${JSON.stringify(parked)}`);
      for (const { name } of projections) {
        const rows: string[] = [];
        for await (const row of projector.dump(name)) rows.push(row);
        found.set(`${environment} ${name}`, rows);
      }
      await projector.close();
    }
    await own?.of(environment).close();
  }
  await stores.close();
  return found;
}
