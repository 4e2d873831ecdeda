// Makes the package that goes to customers: `node apps/license-agent/pack.mjs <folder>`, after `tsc -b . apps/license-agent/src/page`, then
// `npm pack <folder>`. The SDK and the verifying half of license-file travel in it, as bundled dependencies.
import { existsSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { copyBuilt, copyInto, emptied, readJson, writeJson } from '../../tools/pack.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = join(here, '../..');
const target = resolve(process.argv[2] ?? join(here, 'package'));
const { name, version, type } = readJson(join(here, 'package.json'));
const { dependencies } = readJson(join(root, 'package.json'));
const bundled = ['@keyledger/license-file', '@keyledger/sdk'];
const fromRegistry = ['pino', 'undici', 'uqr'];

emptied(target, name);
copyInto(target, join(root, 'LICENSE'));
copyBuilt(join(here, 'dist'), join(target, 'dist'), { packed: [...bundled, ...fromRegistry] });
copyBuilt(join(here, 'dist/page'), join(target, 'dist/page'));
mkdirSync(join(target, 'src/page'), { recursive: true });
copyInto(join(target, 'src/page'), ...['index.html', 'page.css', 'icon.svg'].map((file) => join(here, 'src/page', file)));
for (const module of bundled) {
  const from = join(root, 'libs', module.replace('@keyledger/', ''));
  const to = join(target, 'node_modules', module);
  copyBuilt(join(from, 'dist'), join(to, 'dist'), { packed: [...bundled, '@keyledger/kernel'] });
  const { exports } = readJson(join(from, 'package.json'));
  const built = Object.entries(exports).flatMap(([entry, { default: file }]) => (file && existsSync(join(to, file)) ? [[entry, file]] : []));
  writeJson(join(to, 'package.json'), { name: module, version, license: 'Apache-2.0', type, exports: Object.fromEntries(built) });
}
writeJson(join(target, 'package.json'), {
  name, version, description: 'The Keyledger license agent: keeps a license beside your software', license: 'Apache-2.0', type, engines: { node: '>=24' },
  bin: { 'keyledger-agent': 'dist/main.js' }, files: ['dist', 'src'], bundleDependencies: bundled,
  dependencies: Object.fromEntries([...bundled.map((module) => [module, version]), ...fromRegistry.map((module) => [module, dependencies[module]])]),
});
