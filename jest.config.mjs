import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { swcOptions } from './tools/swc-options.mjs';

const { configFile: _, ...swc } = swcOptions;
const folder = (path) => new URL(`./${path}`, import.meta.url).pathname;
const projects = ['apps', 'libs'].flatMap((kind) => readdirSync(folder(kind)).map((name) => `${kind}/${name}`)).filter((path) => existsSync(folder(`${path}/src`)));

/** All of it takes half an hour: by default what differs most between one process and many. */
const overNats = process.env.KEYLEDGER_E2E === 'all' ? ['{standalone,distributed}/src/*'] : ['standalone/src/{story,tracing}', 'distributed/src/{processes,outage}'];

/**
 * The product with its log on EventStoreDB, or on a double of that, which says so. By default eventstoredb.e2e.spec.ts alone, which is one of
 * apps/standalone; with all, these once more. What is of files only, or of the edge alone, is left out.
 */
const onEventStoreDb = process.env.KEYLEDGER_E2E === 'all'
  ? [['standalone', 'standalone/src/{appliance,clock,environments,erasure,freshness,idempotency,jobs,kill,rebuild,seats,signed,story,usage,webhooks,year}'], ['distributed', 'distributed/src/{processes,outage}']] : [];

/** @type {import('jest').Config} */
const project = {
  testEnvironment: 'node',
  testEnvironmentOptions: { customExportConditions: ['@keyledger/source', 'node', 'node-addons'] },
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', swc] },
};

/** @type {import('jest').Config} */
export default {
  // A worker that has loaded Nest many times keeps memory; it is replaced when it has grown (jest#14605).
  workerIdleMemoryLimit: '512MB',
  // One more than there are cores: specs wait for processes of their own, and for deadlines. An eighth less time on two cores.
  maxWorkers: availableParallelism() + 1,
  testTimeout: 60_000,
  projects: [
    ...projects.map((path) => ({ ...project, displayName: path, rootDir: folder(path), testMatch: [`<rootDir>/src/**/${path === 'apps/distributed' ? '!(*.e2e)' : '*'}.spec.ts`] })),
    // The end-to-end suite once more, over NATS with a process per service. Who moves sees both ways in one test.
    {
      ...project, displayName: 'distributed', rootDir: folder('apps'), testMatch: overNats.map((path) => `<rootDir>/${path}.e2e.spec.ts`), testPathIgnorePatterns: ['move.e2e', 'eventstoredb.e2e'],
      globals: { keyledgerMode: 'distributed' },
    },
    ...onEventStoreDb.map(([keyledgerMode, files]) => ({
      ...project, displayName: `${keyledgerMode} on EventStoreDB`, rootDir: folder('apps'), testMatch: [`<rootDir>/${files}.e2e.spec.ts`],
      globals: { keyledgerMode }, setupFiles: [folder('libs/testing/src/on-eventstoredb.contract.ts')],
    })),
    { ...project, displayName: 'tools', rootDir: folder('tools'), testMatch: ['<rootDir>/*.spec.ts'] },
  ],
};
