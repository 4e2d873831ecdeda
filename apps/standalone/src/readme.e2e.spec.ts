import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Product } from '@keyledger/testing/process';

const readme = readFileSync(new URL('../../../README.md', import.meta.url), 'utf8');
/** The block that the README says is executed. */
const session = /<!-- executed by \S+ -->\n```sh\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
const hasCurl = spawnSync('curl', ['--version']).status === 0;
if (!hasCurl) console.warn('SKIPPED: the README cannot be executed, because there is no curl on this machine');

(hasCurl ? describe : describe.skip)('The README', () => {
  let product: Product;
  beforeAll(async () => { product = await Product.start(); });
  afterAll(() => product.stop());

  const run = (script: string) => {
    const { stdout, stderr, status } = spawnSync('bash', ['--norc', '-eo', 'pipefail', '-c', script], {
      encoding: 'utf8', env: { PATH: process.env['PATH'], KEY: product.rootKey, PORT: new URL(product.url).port },
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    return stdout.trim().split('\n');
  };

  it('sells, activates and validates a license with the lines that it shows, and nothing is lost when the process is killed', async () => {
    const [activated, code, licenseKey = ''] = run(`${session}\necho "$LICENSE_KEY"`);
    product.secrets.add(licenseKey);
    expect([activated, code]).toEqual(['true', 'VALID']);

    await product.kill9();
    await product.restart();
    const verdict = await product.app.post('/license/validate', { licenseKey, fingerprint: 'laptop-1' });
    expect(verdict).toMatchObject({ valid: true, license: { status: 'active', activationCount: 1, activationLimit: 2 } });
  });
});
