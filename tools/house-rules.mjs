// The rules of docs/ARCHITECTURE.md that a program can check. Pure functions over {path, text} of every source file, so that
// tools/house-rules.spec.ts can plant one violation of each and see it caught.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const libs = ['kernel', 'domain', 'contracts', 'event-store', 'messaging', 'read-models', 'keyring', 'observability', 'license-file', 'sdk', 'process', 'stores', 'servers', 'testing'];
const service = ['kernel', 'domain', 'contracts', 'event-store', 'messaging', 'read-models', 'keyring', 'observability', 'process', 'stores'];
const edge = ['kernel', 'contracts', 'messaging', 'observability', 'process'];

/** Who may import which of our own packages. An app may import no other app, but for standalone, which composes them, and cli, which asks that for all their tables. */
export const imports = {
  'libs/kernel': [],
  'libs/domain': ['kernel'],
  'libs/contracts': ['kernel', 'domain'],
  'libs/event-store': ['kernel', 'observability'],
  'libs/messaging': ['kernel', 'contracts', 'observability'],
  'libs/read-models': ['kernel', 'event-store', 'observability'],
  'libs/keyring': ['kernel', 'read-models'],
  'libs/observability': ['kernel'],
  'libs/license-file': ['kernel'],
  'libs/sdk': ['license-file'],
  'libs/process': ['kernel', 'messaging', 'observability'],
  'libs/stores': ['kernel', 'event-store', 'keyring', 'read-models', 'observability'],
  'libs/servers': [],
  'libs/testing': libs.filter((name) => name !== 'testing'),
  'apps/gateway': edge,
  'apps/access': service,
  'apps/catalog': service,
  'apps/license-authority': service,
  'apps/activation': service,
  'apps/signing': [...service, 'license-file'],
  'apps/usage-metering': service,
  'apps/sweeper': service,
  'apps/license-agent': ['sdk', 'license-file'],
  'apps/notifier': service,
  'apps/distributed': ['kernel', 'contracts', 'messaging', 'process', 'servers'],
  'apps/cli': ['kernel', 'event-store', 'read-models', 'keyring', 'observability', 'stores', 'standalone'],
  'apps/standalone': [...service, 'gateway', 'access', 'catalog', 'license-authority', 'activation', 'signing', 'usage-metering', 'sweeper', 'notifier'],
};

/** What runs the services knows nothing of them; its end-to-end specs do. */
const specsImport = { 'apps/distributed': ['contracts', 'standalone'], 'apps/standalone': ['license-agent'] };

/** Third-party packages that only some may touch: stores stay behind their ports, the ORM out of the edge. */
const reserved = [
  { packages: /^(@mikro-orm\/|kysely$)/, owners: ['libs/read-models', 'libs/keyring', 'apps/access', 'apps/catalog', 'apps/license-authority', 'apps/activation', 'apps/usage-metering', 'apps/notifier', 'apps/standalone'] },
  { packages: /^(node:sqlite|pg$|@eventstore\/)/, owners: ['libs/event-store', 'libs/read-models'] },
  { packages: /^@nats-io\//, owners: ['libs/messaging'] },
  { packages: /^jose$/, owners: ['libs/license-file'] },
  { packages: /^@keyledger\/license-file\/sign$/, owners: ['apps/signing'] },
  { packages: /^(fastify|@fastify\/|@nestjs\/platform-fastify)/, owners: ['apps/gateway', 'apps/standalone'] },
];

const importPattern = /(?:^|\n)\s*(?:import|export)\s[^'";]*?from\s+'([^']+)'|import\(\s*'([^']+)'\s*\)|(?:^|\n)\s*import\s+'([^']+)'/g;
const isSpec = (path) => /\.(spec|contract)\.ts$/.test(path);
const ownerOf = (path) => path.split('/').slice(0, 2).join('/');
const importsOf = (text) => [...text.matchAll(importPattern)].map(([, from, dynamic, bare]) => from ?? dynamic ?? bare);
const withoutComments = (text) => text.replaceAll(/\/\*[\s\S]*?\*\//g, '').replaceAll(/(^|[^:])\/\/[^\n]*/g, '$1');

export const rules = {
  'imports follow the table': ({ path, text }) => {
    const owner = ownerOf(path);
    const allowed = imports[owner];
    if (!allowed) return [`${owner} has no row in the import table`];
    return importsOf(text).flatMap((from) => {
      const own = /^@keyledger\/([^/]+)/.exec(from)?.[1];
      if (own && !allowed.includes(own) && !(isSpec(path) && ['testing', 'servers', 'license-file', 'sdk', ...(specsImport[owner] ?? [])].includes(own))) return [`${owner} must not import @keyledger/${own}`];
      if (from.startsWith('.') && !relative(owner, join(dirname(path), from)).startsWith('src/')) return [`${path} leaves its project: ${from}`];
      return [];
    });
  },
  'stores, ORM and HTTP server stay with their owners': ({ path, text }) =>
    isSpec(path) ? [] : importsOf(text).flatMap((from) =>
      reserved.filter(({ packages, owners }) => packages.test(from) && !owners.includes(ownerOf(path))).map(() => `${ownerOf(path)} must not import ${from}`)),
  'the environment is read in config.ts only': ({ path, text }) =>
    !path.endsWith('/config.ts') && !isSpec(path) && path !== 'libs/testing/src/process.ts' && /\bprocess\.env\b/.test(withoutComments(text)) ? [`${path} reads process.env`] : [],
  // What imports it is given everything that is in it, WebSocket too, for which Node loads undici: 40 ms of each start. Types cost nothing.
  'node:http comes from process.getBuiltinModule': ({ path, text }) =>
    !isSpec(path) && !['libs/testing', 'libs/servers'].includes(ownerOf(path)) && /(?:^|\n)\s*import\s(?!type\s)[^'";]*?from\s+'node:http'/.test(text) ? [`${path} imports node:http`] : [],
  'libs/domain has no clock, no random, no I/O': ({ path, text }) => {
    if (!path.startsWith('libs/domain/src/') || isSpec(path)) return [];
    const code = withoutComments(text);
    const impure = /\bnew Date\(\s*\)|\bDate\.now\b|\bMath\.random\b|\brandomUUID\b|\bgetRandomValues\b|\bperformance\b|\bfetch\(|\bsetTimeout\b|\bprocess\./.exec(code)?.[0];
    const builtIn = importsOf(text).find((from) => from.startsWith('node:') || (!from.startsWith('.') && from !== '@keyledger/kernel'));
    return [...(impure ? [`${path} uses ${impure}`] : []), ...(builtIn ? [`${path} imports ${builtIn}`] : [])];
  },
  'every route is declared with @Route and so has a permission': ({ path, text }) =>
    path.endsWith('.controller.ts') ? [...withoutComments(text).matchAll(/@(Get|Post|Put|Patch|Delete|All|Head|Options)\(/g)].map(([, verb]) => `${path} has a route with @${verb} and no permission`) : [],
  'every refusal is in the catalogue': ({ path, text }, { codes }) =>
    isSpec(path) ? [] : [...withoutComments(text).matchAll(/\b(?:refuse|new Refusal)\(\s*'([A-Z_]+)'/g)].filter(([, code]) => !codes.has(code)).map(([, code]) => `${path} refuses with ${code}, which is not in the catalogue`),
  'no escape hatches': ({ path, text }) => [...withoutComments(text).matchAll(/\bforwardRef\(|\bas any\b|: any\b/g)].map(([found]) => `${path} has ${found}`),
};

/** Every code of the catalogue is used somewhere outside of it. */
export function unusedCodes(files, codes) {
  const used = files.filter(({ path }) => !path.endsWith('kernel/src/errors.ts') && !isSpec(path)).map(({ text }) => text).join('\n');
  return [...codes].filter((code) => !used.includes(`'${code}'`)).map((code) => `nothing ever refuses with ${code}`);
}

/** package.json and tsconfig.json of a project name exactly what its sources import. */
export function declarationFaults(owner, files, manifest, config) {
  const imported = new Set(files.filter(({ path }) => !isSpec(path)).flatMap(({ text }) => importsOf(text)).map((from) => /^@keyledger\/([^/]+)/.exec(from)?.[1]).filter(Boolean));
  const declared = new Set(Object.keys({ ...manifest.dependencies, ...manifest.devDependencies }).map((name) => name.replace('@keyledger/', '')));
  const referenced = new Set((config.references ?? []).map(({ path }) => path.split('/').pop()));
  return [...imported].flatMap((name) => [
    ...(declared.has(name) ? [] : [`${owner} imports @keyledger/${name} but its package.json does not say so`]),
    ...(referenced.has(name) ? [] : [`${owner}: tsconfig.json lacks a reference to ${name}`]),
  ]);
}

export function violations(files, codes) {
  return files.flatMap((file) => Object.entries(rules).flatMap(([rule, check]) => check(file, { codes }).map((fault) => `${rule}: ${fault}`)));
}

export const codesIn = (errorsSource) => new Set([...errorsSource.matchAll(/^ {2}([A-Z_]+): \{ status/gm)].map(([, code]) => code));

function sources(root) {
  const files = [];
  const walk = (folder) => {
    for (const entry of readdirSync(folder, { withFileTypes: true })) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (entry.name.endsWith('.ts')) files.push({ path: relative(root, path), text: readFileSync(path, 'utf8') });
    }
  };
  for (const kind of ['apps', 'libs']) for (const name of readdirSync(join(root, kind))) if (existsSync(join(root, kind, name, 'src'))) walk(join(root, kind, name, 'src'));
  return files;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
  const files = sources(root);
  const codes = codesIn(files.find(({ path }) => path === 'libs/kernel/src/errors.ts').text);
  const json = (path) => JSON.parse(readFileSync(join(root, path), 'utf8'));
  const byOwner = Map.groupBy(files, ({ path }) => ownerOf(path));
  const faults = [
    ...violations(files, codes),
    ...unusedCodes(files, codes),
    ...[...byOwner].flatMap(([owner, own]) => declarationFaults(owner, own, json(`${owner}/package.json`), json(`${owner}/tsconfig.json`))),
  ];
  for (const fault of faults) console.error(fault);
  console.log(`house rules: ${files.length} files, ${faults.length} faults`);
  process.exit(faults.length ? 1 : 0);
}
