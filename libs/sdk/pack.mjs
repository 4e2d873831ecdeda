// Makes the package that is published: `node libs/sdk/pack.mjs <folder>`, after `tsc -b libs/sdk`, then `npm publish <folder>`. The verifying half of
// license-file goes into it, so that it has no dependencies: what users verify with is what the server and its vectors were tested with.
import { copyFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { copyBuilt, copyInto, emptied, readJson, writeJson } from '../../tools/pack.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const target = resolve(process.argv[2] ?? join(here, 'package'));
const { name, version, type, sideEffects } = readJson(join(here, 'package.json'));

emptied(target, name);
copyBuilt(join(here, 'dist'), join(target, 'dist'), { rewrite: (text) => text.replaceAll(/(['"])@keyledger\/license-file\1/g, "'./license-file/index.js'") });
copyBuilt(join(here, '../license-file/dist'), join(target, 'dist/license-file'), { rewrite: (text) => text.replaceAll(/(['"])@keyledger\/kernel\1/g, "'./kernel.js'") });
// Nothing but the type of an instant, which is a string.
copyFileSync(join(here, '../kernel/dist/time.d.ts'), join(target, 'dist/license-file/kernel.d.ts'));
copyInto(target, join(here, 'README.md'), join(here, '../../LICENSE'));

const entry = (file) => ({ types: `./dist/${file}.d.ts`, default: `./dist/${file}.js` });
const [index, node] = [entry('index'), entry('node')];
// The first members are for tools that know no `exports`. Node can `require` a module since 20.19 and 22.12.
writeJson(join(target, 'package.json'), {
  name, version, description: 'Keeps a Keyledger license in your software', license: 'Apache-2.0', type, sideEffects, engines: { node: '^20.19 || >=22.12' },
  main: index.default, types: index.types, typesVersions: { '*': { node: [node.types] } }, exports: { '.': index, './node': node }, files: ['dist'],
});
