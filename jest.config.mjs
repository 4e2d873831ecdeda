import { existsSync, readdirSync } from 'node:fs';

/** @type {import('jest').Config} */
const base = {
  testEnvironment: 'node',
  testEnvironmentOptions: { customExportConditions: ['@keyledger/source', 'node', 'node-addons'] },
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': ['@swc/jest', {
    jsc: {
      target: 'es2024',
      parser: { syntax: 'typescript', decorators: true },
      transform: { legacyDecorator: true, decoratorMetadata: true, useDefineForClassFields: false },
      keepClassNames: true,
    },
    module: { type: 'es6' },
    sourceMaps: 'inline',
    swcrc: false,
  }] },
  testMatch: ['<rootDir>/src/**/*.spec.ts', '<rootDir>/test/**/*.spec.ts'],
};
const dirs = ['apps', 'libs'].flatMap((d) => readdirSync(new URL(`./${d}/`, import.meta.url)).map((n) => `${d}/${n}`));
export default {
  workerIdleMemoryLimit: '512MB',
  projects: dirs
    .filter((d) => existsSync(new URL(`./${d}/src`, import.meta.url)))
    .map((d) => ({ ...base, displayName: d, rootDir: new URL(`./${d}`, import.meta.url).pathname })),
};
