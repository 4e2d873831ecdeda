import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

describe('The package that is published', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-package-'));
  const target = join(folder, 'node_modules/@keyledger/sdk');
  beforeAll(() => void execFileSync(process.execPath, [here('../pack.mjs'), target]));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('is found by tools that know no "exports", and declares nothing that a TypeScript before 5.7 cannot read', () => {
    symlinkSync(here('../../../node_modules/@types'), join(folder, 'node_modules/@types'));
    writeFileSync(join(folder, 'program.ts'), "import { License } from '@keyledger/sdk';\nimport { nodeClock } from '@keyledger/sdk/node';\nexport const license = License.open({ roots: '', clock: nodeClock() });\n");
    const options = ['--module', 'commonjs', '--moduleResolution', 'node10', '--ignoreDeprecations', '6.0', '--target', 'es2022', '--types', 'node', '--strict', '--skipLibCheck', '--noEmit', '--listFiles'];
    const { stdout, status } = spawnSync(process.execPath, [here('../../../node_modules/typescript/bin/tsc6'), ...options, 'program.ts'], { cwd: folder, encoding: 'utf8' });
    const declared = stdout.split('\n').filter((line) => line.includes('@keyledger/sdk') && line.endsWith('.d.ts'));
    expect({ status, count: declared.length > 20 ? 'all' : stdout }).toEqual({ status: 0, count: 'all' });
    expect(declared.filter((file) => readFileSync(file, 'utf8').includes('Uint8Array<'))).toEqual([]);
  });
});
