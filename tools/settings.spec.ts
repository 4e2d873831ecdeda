import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const root = new URL('../', import.meta.url);
const text = (path: string) => readFileSync(new URL(path, root), 'utf8');
const configs = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) => /^(apps|libs)\/[^/]+\/src\/config\.ts$/.test(path));
const variables = (source: string) => [...source.replaceAll(/\/\/.*|\/\*[\s\S]*?\*\//g, '').matchAll(/'([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)'/g)].map(([, name]) => name as string);
const read = new Set(configs.flatMap((path) => variables(text(path))));
const documented = (page: string) => [...page.matchAll(/^\| (`[A-Z][^|]*?) \|/gm)].flatMap(([, names]) => [...(names as string).matchAll(/`([A-Z_0-9]+)`/g)].map(([, name]) => name as string));

describe('Every setting', () => {
  const settings = documented(text('docs/operations.md').split('## Settings')[1] ?? '');

  it('that a config.ts reads is explained in docs/operations.md, once, and nothing else is', () => {
    expect([...settings].sort()).toEqual([...read].sort());
  });

  it('is found where it is read', () => {
    expect(configs.length).toBeGreaterThan(6);
    expect(variables("env['A_B']; whole(env, 'C1'); // env['COMMENT']\n/* 'ALSO' */ 'not this', 'Nor this'")).toEqual(['A_B', 'C1']);
    expect(documented('| `A`, `B_C` | x `D` |\n| setting | |\n| `E` |\n')).toEqual(['A', 'B_C', 'E']);
  });

  it('in the README is one of them', () => {
    const mentioned = documented(text('README.md')).filter((name) => !settings.includes(name));
    expect(mentioned).toEqual([]);
  });
});
