// What the packages that leave this repository are made with: libs/sdk/pack.mjs and apps/license-agent/pack.mjs.
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** What signs stays here. */
const isPublished = (name) => /\.(js|d\.ts)$/.test(name) && !/^(sign|contract)\./.test(name);

/** Empties the folder for the package `name`; refuses one that holds anything but an earlier package of that name. */
export function emptied(folder, name) {
  const files = existsSync(folder) ? readdirSync(folder) : [];
  const isOurs = () => files.includes('package.json') && JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name === name;
  const isFree = files.length === 0 || (files.every((file) => ['LICENSE', 'README.md', 'dist', 'node_modules', 'package.json', 'src'].includes(file)) && isOurs());
  if (!isFree) throw new Error(`${folder} has something else in it: give a folder that is new or empty, or a package that was made here before`);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
}

/** Copies built modules, without source maps. Refuses an import of a package that is not among `packed`. */
export function copyBuilt(from, to, { packed = [], rewrite = (text) => text } = {}) {
  mkdirSync(to, { recursive: true });
  for (const name of readdirSync(from).filter(isPublished)) {
    const text = rewrite(readFileSync(join(from, name), 'utf8')).replaceAll(/\n\/\/# sourceMappingURL=\S+/g, '');
    const imported = [...text.matchAll(/(?:from |import\()['"]((?:@[^'"/]+\/)?[^'"./][^'"/]*)[^'"]*['"]/g)].map(([, module]) => module);
    const stray = imported.find((module) => !module.startsWith('node:') && !packed.includes(module));
    if (stray) throw new Error(`${name} would need ${stray}`);
    writeFileSync(join(to, name), text);
  }
}

export const readJson = (file) => JSON.parse(readFileSync(file, 'utf8'));
export const writeJson = (file, value) => writeFileSync(file, `${JSON.stringify(value, null, 2)}\n`);
export const copyInto = (folder, ...files) => files.forEach((file) => copyFileSync(file, join(folder, file.split(/[\\/]/).at(-1))));
