import { describe, expect, it } from '@jest/globals';
import { codesIn, declarationFaults, rules, unusedCodes, violations } from './house-rules.mjs';

const codes = new Set(['LICENSE_REVOKED']);
const planted: [rule: keyof typeof rules, path: string, text: string][] = [
  ['imports follow the table', 'libs/kernel/src/ids.ts', "import { License } from '@keyledger/domain';"],
  ['imports follow the table', 'libs/domain/src/license/license.ts', "import { query } from '@keyledger/contracts';"],
  ['imports follow the table', 'libs/contracts/src/license.ts', "import type { EventStore } from '@keyledger/event-store';"],
  ['imports follow the table', 'libs/event-store/src/port.ts', "import { projection } from '@keyledger/read-models';"],
  ['imports follow the table', 'apps/gateway/src/edge.ts', "import { Aggregates } from '@keyledger/event-store';"],
  ['imports follow the table', 'apps/catalog/src/order.handlers.ts', "import { LicenseCommands } from '@keyledger/license-authority';"],
  ['imports follow the table', 'apps/catalog/src/order.handlers.ts', "import { secret } from '../../access/src/keys.ts';"],
  ['imports follow the table', 'apps/newcomer/src/main.ts', "import '@keyledger/kernel';"],
  ['imports follow the table', 'apps/activation/src/verdicts.ts', "const { scenarios } = await import('@keyledger/testing');"],
  ['stores, ORM and HTTP server stay with their owners', 'apps/gateway/src/edge.ts', "import { MikroORM } from '@mikro-orm/core';"],
  ['stores, ORM and HTTP server stay with their owners', 'apps/catalog/src/x.ts', "import { DatabaseSync } from 'node:sqlite';"],
  ['stores, ORM and HTTP server stay with their owners', 'apps/activation/src/x.ts', "import fastify from 'fastify';"],
  ['the environment is read in config.ts only', 'apps/catalog/src/main.ts', "const url = process.env['NATS_URL'];"],
  ['node:http comes from process.getBuiltinModule', 'apps/gateway/src/x.ts', "import { STATUS_CODES, type ServerResponse } from 'node:http';"],
  ['libs/domain has no clock, no random, no I/O', 'libs/domain/src/license/license.ts', 'const now = new Date();'],
  ['libs/domain has no clock, no random, no I/O', 'libs/domain/src/license/license.ts', 'const id = crypto.randomUUID();'],
  ['libs/domain has no clock, no random, no I/O', 'libs/domain/src/license/license.ts', "import { readFileSync } from 'node:fs';"],
  ['every route is declared with @Route and so has a permission', 'apps/gateway/src/x.controller.ts', "@Get('secrets') all() {}"],
  ['every refusal is in the catalogue', 'libs/domain/src/license/license.ts', "throw refuse('LICENSE_LOST')"],
  ['no escape hatches', 'apps/catalog/src/x.ts', 'const x = y as any;'],
];

describe('The house rules', () => {
  it.each(planted)('catch a violation of "%s" in %s', (rule, path, text) => {
    expect(violations([{ path, text }], codes).filter((fault) => fault.startsWith(`${rule}:`))).not.toEqual([]);
  });

  it('have a planted violation each', () => {
    expect(new Set(planted.map(([rule]) => rule))).toEqual(new Set(Object.keys(rules)));
  });

  it('leave good code alone', () => {
    const good = [
      { path: 'libs/domain/src/license/license.ts', text: "import { refuse } from '@keyledger/kernel';\n// new Date() would be wrong here\nthrow refuse('LICENSE_REVOKED');" },
      { path: 'apps/gateway/src/x.ts', text: "import type { ServerResponse } from 'node:http';\nimport { request } from 'node:https';" },
      { path: 'apps/catalog/src/config.ts', text: 'export const dir = process.env.DIR;' },
      { path: 'apps/gateway/src/x.controller.ts', text: "@Route('GET /x', { needs: 'license.read' })" },
    ];
    expect(violations(good, codes)).toEqual([]);
  });

  it('catch a dependency that package.json and tsconfig.json do not name', () => {
    const files = [{ path: 'apps/catalog/src/a.ts', text: "import { x } from '@keyledger/keyring';" }];
    expect(declarationFaults('apps/catalog', files, {}, {})).toHaveLength(2);
    expect(declarationFaults('apps/catalog', files, { dependencies: { '@keyledger/keyring': '*' } }, { references: [{ path: '../../libs/keyring' }] })).toEqual([]);
  });

  it('catch an error code that nothing uses', () => {
    const catalogue = codesIn("  LICENSE_REVOKED: { status: 403 },\n  NEVER_USED: { status: 400 },\n");
    expect(unusedCodes([{ path: 'libs/domain/src/x.ts', text: "refuse('LICENSE_REVOKED')" }], catalogue)).toEqual(['nothing ever refuses with NEVER_USED']);
  });
});
