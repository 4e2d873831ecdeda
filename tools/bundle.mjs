// Puts the built programs into few files: dist/<program>.js, the threads that they start, and what they share. A process reads and links some 2,000
// modules otherwise, which is half of the work of its start. Whatever is loaded only where it is used, and has much to load, stays a package.
import { globSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';

const stamp = 'dist/.bundled';
const external = [/^@opentelemetry\/(?!api)/, '@eventstore/db-client', 'nodemailer', 'undici'];
/** The one is a package of its own, the other only starts programs. */
const unbundled = ['license-agent', 'distributed'];
const programs = globSync('apps/*/src/main.ts').map((path) => path.split('/')[1]).filter((name) => !unbundled.includes(name));
const threads = ['libs/event-store/dist/sqlite.worker.js', 'libs/read-models/dist/sqlite-file.worker.js', 'apps/signing/dist/signer.worker.js'];
const input = Object.fromEntries([...programs.map((name) => [name, `apps/${name}/dist/main.js`]), ...threads.map((path) => [basename(path, '.js'), path])]);

if (isStale()) {
  const { build } = await import('rolldown');
  await build({
    input, platform: 'node', external, onLog,
    output: { dir: dirname(stamp), format: 'esm', keepNames: true, cleanDir: true, entryFileNames: '[name].js', chunkFileNames: named },
  });
  writeFileSync(stamp, '');
}

/** Stack traces show the name: the project or package whose module needs all the others of the file. */
function named({ moduleIds }) {
  const module = (moduleIds.at(-1) ?? '').replace(process.cwd(), '');
  const [owner = 'shared'] = /(?<=^\/(?:apps|libs|node_modules)\/)(?:@[^/]+\/)?[^/]+/.exec(module) ?? [];
  return `${owner.replace('/', '-')}-[hash].js`;
}

/** `tsc -b` writes the one when it has written any of the others. */
function isStale() {
  const at = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return Math.max(...['package-lock.json', 'tools/bundle.mjs', ...globSync('{apps,libs}/*/dist/.tsbuildinfo')].map(at)) >= at(stamp);
}

/** Nest and MikroORM look for packages that are not there, and do without them. */
function onLog(level, log, handle) {
  if (log.code === 'UNRESOLVED_IMPORT' && log.id?.includes('/node_modules/')) return;
  handle('error', log);
}
