import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';

const root = realpathSync(mkdtempSync(join(tmpdir(), 'keyledger-bootstrap-')));
const bundled = join(root, `node_modules/node-${process.platform}-${process.arch}/bin/node`);
const file = (path: string, content: string) => {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), content);
};
/** What a task says of the Node it runs on. */
function run(...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [...args, join(root, 'tools/bootstrap.mjs'), 'task'], { encoding: 'utf8' });
  return { status, said: stdout + stderr };
}
const bring = (script: string) => {
  mkdirSync(dirname(bundled), { recursive: true });
  writeFileSync(bundled, script);
  chmodSync(bundled, 0o755);
};
const onNode22 = ['--import', 'data:text/javascript,Object.defineProperty(process,"versions",{value:{node:"22.1.0"}})'];

describe('The entry of every npm script', () => {
  beforeAll(() => {
    file('package-lock.json', '{}');
    file('node_modules/.bootstrap', createHash('sha256').update('{}').update(process.platform + process.arch).digest('hex'));
    file('tools/task.mjs', 'console.log(process.execPath)');
    copyFileSync(new URL('bootstrap.mjs', import.meta.url), join(root, 'tools/bootstrap.mjs'));
  });
  afterAll(() => rmSync(root, { recursive: true }));

  it('goes on with the machine’s own Node where npm brings none along, if that is new enough', () => {
    expect(run()).toEqual({ status: 0, said: `${process.execPath}\n` });
    expect(run(...onNode22)).toEqual({ status: 1, said: expect.stringContaining(`and npm brings none along for ${process.platform}-${process.arch}.`) });
  });

  it('goes on with that, too, where the one that npm brought along does not run', () => {
    bring('#!/lib/ld-musl-is-not-glibc\n');
    expect(run()).toEqual({ status: 0, said: `${process.execPath}\n` });
    expect(run(...onNode22)).toEqual({ status: 1, said: expect.stringContaining('and the Node 24 that npm brought along, for Linux with glibc, does not run here.') });
  });

  it('takes the one that npm brought along where it runs', () => {
    bring('#!/bin/sh\necho bundled\n');
    expect(run(...onNode22)).toEqual({ status: 0, said: 'bundled\n' });
  });
});
