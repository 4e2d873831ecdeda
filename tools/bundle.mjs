// Puts the built programs into few files: dist/<program>.js, the threads that they start, and what they share. A process reads and links some 2,000
// modules otherwise, which is half of the work of its start. Whatever is loaded only where it is used, and has much to load, stays a package.
import { cpSync, globSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';

/** Has the time from which on changes are not in it. */
const stamp = '.bundled';
const began = new Date();
const external = [/^@opentelemetry\/(?!api)/, '@eventstore/db-client', 'nodemailer', 'undici'];
/** The one is a package of its own, the other only starts programs. */
const unbundled = ['license-agent', 'distributed'];
const programs = globSync('apps/*/src/main.ts').map((path) => path.split('/')[1]).filter((name) => !unbundled.includes(name));
const threads = ['libs/event-store/dist/sqlite.worker.js', 'libs/read-models/dist/sqlite-file.worker.js', 'apps/signing/dist/signer.worker.js'];
const input = Object.fromEntries([...programs.map((name) => [name, `apps/${name}/dist/main.js`]), ...threads.map((path) => [basename(path, '.js'), path])]);

if (isStale()) {
  const { build } = await import('rolldown');
  const made = `.dist-${process.pid}`;
  try {
    await build({
      input, platform: 'node', external, onLog, checks: { bundlerTimings: false },
      output: { dir: made, format: 'esm', keepNames: true, entryFileNames: '[name].js', chunkFileNames: named },
    });
    writeFileSync(`${made}/${stamp}`, '');
    utimesSync(`${made}/${stamp}`, began, began);
    // A mount, or a folder of a lower layer of an image, cannot be renamed.
    if (!unless(['EXDEV', 'EBUSY'], () => putInPlace(made))) refill(made);
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
}

/** All at once: a build that fails leaves the programs that are there, and another start or build beside this one finds them whole. */
function putInPlace(made) {
  const old = `${made}-old`;
  for (let isDone = false; !isDone;) {
    rmSync(old, { recursive: true, force: true });
    unless(['ENOENT'], () => renameSync('dist', old));
    // Another build was faster just now. If that one is newer, the next build sees it by this one's stamp.
    isDone = unless(['ENOTEMPTY', 'EEXIST'], () => renameSync(made, 'dist'));
  }
  rmSync(old, { recursive: true, force: true });
}

function refill(made) {
  for (const name of readdirSync('dist')) rmSync(`dist/${name}`, { recursive: true });
  cpSync(made, 'dist', { recursive: true, preserveTimestamps: true });
}

/** False for one of these errors. */
function unless(codes, work) {
  try {
    work();
    return true;
  } catch (error) {
    if (codes.includes(error.code)) return false;
    throw error;
  }
}

/** Stack traces show the name, of the project or package of the file's last module; in the file, a comment above the line names its own module. */
function named({ moduleIds }) {
  const module = (moduleIds.at(-1) ?? '').replace(process.cwd(), '');
  const [owner = 'shared'] = /(?<=^\/(?:apps|libs|node_modules)\/)(?:@[^/]+\/)?[^/]+/.exec(module) ?? [];
  return `${owner.replace('/', '-')}-[hash].js`;
}

/** `tsc -b` writes the one when it has written any of the others. */
function isStale() {
  const at = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  return Math.max(...['package-lock.json', 'tools/bundle.mjs', ...globSync('{apps,libs}/*/dist/.tsbuildinfo')].map(at)) >= at(`dist/${stamp}`);
}

/** Nest and MikroORM look for packages that are not there, and do without them. */
function onLog(level, log, handle) {
  if (log.code === 'UNRESOLVED_IMPORT' && log.id?.includes('/node_modules/')) return;
  handle('error', log);
}
