import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';

const root = new URL('../', import.meta.url);
const text = (path: string) => readFileSync(new URL(path, root), 'utf8');
const configs = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) => /^(apps|libs)\/[^/]+\/src\/config\.ts$/.test(path));
const variables = (source: string) => [...source.replaceAll(/\/\/.*|\/\*[\s\S]*?\*\//g, '').matchAll(/'([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)'/g)].map(([, name]) => name as string);
const read = new Set(configs.flatMap((path) => variables(text(path))));
const documented = (page: string) => [...page.matchAll(/^\| (`[A-Z][^|]*?) \|/gm)].flatMap(([, names]) => [...(names as string).matchAll(/`([A-Z_0-9]+)`/g)].map(([, name]) => name as string));

describe('Every setting', () => {
  const settings = ['settings', 'license-agent'].flatMap((page) => documented(text(`docs/operations/${page}.md`)));

  it('that a config.ts reads is explained in docs/operations, once, and nothing else is', () => {
    expect([...settings].sort()).toEqual([...read].sort());
  });

  it('is found where it is read', () => {
    expect(configs.length).toBeGreaterThan(6);
    expect(variables("env['A_B']; whole(env, 'C1'); // env['COMMENT']\n/* 'ALSO' */ 'not this', 'Nor this'")).toEqual(['A_B', 'C1']);
    expect(documented('| `A`, `B_C` | x `D` |\n| setting | |\n| `E` |\n')).toEqual(['A', 'B_C', 'E']);
  });
});

it('Every metric is explained in docs/operations/monitoring.md, and nothing else is', () => {
  const metrics = [...text('libs/observability/src/metrics.ts').matchAll(/'(keyledger_\w+)'/g)].map(([, name]) => name);
  const explained = [...text('docs/operations/monitoring.md').matchAll(/^\| `(keyledger_\w+)` \|/gm)].map(([, name]) => name);
  expect(explained.sort()).toEqual(metrics.sort());
});

describe('Every link', () => {
  const pages = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.md') && !path.includes('node_modules') && !path.startsWith('.'));
  /** What GitHub makes of a heading, and what the page names itself. */
  const anchors = (page: string) => [
    ...[...page.matchAll(/^#+ (.*)$/gm)].map(([, heading]) => (heading as string).toLowerCase().replaceAll(/[^\w\- ]/g, '').replaceAll(' ', '-')),
    ...[...page.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id as string),
  ];
  const broken = (path: string, page: string) => [...page.matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link as string).filter((link) => !/^\w+:/.test(link)).filter((link) => {
    const [file, anchor] = link.split('#') as [string, string?];
    const target = new URL(file === '' ? '' : file, new URL(path, root));
    return !existsSync(target) || (anchor !== undefined && !anchors(readFileSync(target, 'utf8')).includes(anchor));
  });

  it.each(pages)('of %s leads somewhere', (path) => {
    expect(broken(path, text(path))).toEqual([]);
  });

  it('that leads nowhere is found', () => {
    expect(broken('README.md', '[a](docs/nothing.md) [b](docs/ARCHITECTURE.md#nothing) [c](#run-it) [d](https://example.com/) [e](docs)')).toEqual(['docs/nothing.md', 'docs/ARCHITECTURE.md#nothing']);
  });
});
