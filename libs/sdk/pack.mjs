// Makes the package that is published: `node libs/sdk/pack.mjs <folder>`, after `tsc -b libs/sdk`, then `npm publish <folder>`. The verifying half of
// license-file goes into it, so that it has no dependencies: what users verify with is what the server and its vectors were tested with.
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const target = resolve(process.argv[2] ?? join(here, 'package'));

/** Whoever signs has no business here. */
const isPublished = (name) => /\.(js|d\.ts)$/.test(name) && !/^(sign|contract)\./.test(name);

function copy(from, to, rewrite) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from).filter(isPublished)) {
    const text = rewrite(readFileSync(join(from, name), 'utf8')).replaceAll(/\n\/\/# sourceMappingURL=\S+/g, '');
    const stray = /from ['"](@keyledger\/[^'"]+)['"]/.exec(text)?.[1];
    if (stray) throw new Error(`${name} would need ${stray}`);
    writeFileSync(join(to, name), text);
  }
}

/** Somebody may give the folder that it is to be put into. */
function isFree(folder) {
  const files = existsSync(folder) ? readdirSync(folder) : [];
  const isOurs = () => files.includes('package.json') && JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === name;
  return files.length === 0 || (files.every((file) => ['README.md', 'dist', 'package.json'].includes(file)) && isOurs());
}

const { name, version, type, sideEffects } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'));
if (!isFree(target)) throw new Error(`${target} has something else in it: give a folder that is new or empty, or a package that was made here before`);
rmSync(target, { recursive: true, force: true });
copy(join(here, 'dist'), join(target, 'dist'), (text) => text.replaceAll(/(['"])@keyledger\/license-file\1/g, "'./license-file/index.js'"));
copy(join(here, '../license-file/dist'), join(target, 'dist/license-file'), (text) => text.replaceAll(/(['"])@keyledger\/kernel\1/g, "'./kernel.js'"));
// Nothing but the type of an instant, which is a string.
copyFileSync(join(here, '../kernel/dist/time.d.ts'), join(target, 'dist/license-file/kernel.d.ts'));
copyFileSync(join(here, 'README.md'), join(target, 'README.md'));

const entry = (file) => ({ types: `./dist/${file}.d.ts`, default: `./dist/${file}.js` });
writeFileSync(join(target, 'package.json'), `${JSON.stringify({
  name, version, description: 'Keeps a Keyledger license in your software', license: 'Apache-2.0', type, sideEffects, engines: { node: '>=20.19' },
  exports: { '.': entry('index'), './node': entry('node') }, files: ['dist'],
}, null, 2)}\n`);
