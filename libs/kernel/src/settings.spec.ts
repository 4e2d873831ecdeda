import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { settingOrFile } from './settings.ts';

describe('A setting that may be in a file', () => {
  let folder: string;
  const file = (text: string) => {
    const path = join(folder, 'url');
    writeFileSync(path, text);
    return path;
  };
  const read = (env: Record<string, string>) => settingOrFile(env, 'URL', 'URL_FILE');
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'keyledger-settings-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('is read from where it is', () => {
    expect(read({ URL: 'nats://a' })).toBe('nats://a');
    expect(read({ URL: '', URL_FILE: file('nats://b\n') })).toBe('nats://b');
    expect(read({ URL: '', URL_FILE: '' })).toBeUndefined();
  });

  it('is not guessed, and what is wrong is named, but not shown', () => {
    expect(() => read({ URL: 'nats://secret', URL_FILE: file('nats://b') })).toThrow('Set URL or URL_FILE, not both');
    expect(() => read({ URL_FILE: file(' \n') })).toThrow(/^URL_FILE: .*url is empty$/);
    expect(() => read({ URL_FILE: join(folder, 'none') })).toThrow(/^URL_FILE: .*none cannot be read$/);
  });
});
