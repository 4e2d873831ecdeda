// `npm run build`: builds what has changed: every project, then the programs made of them. Standard output stays free for the program that is run next.
import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';

const stdio = ['inherit', 2, 2];
for (const [command, args] of [['tsc', ['-b']], [process.execPath, ['tools/bundle.mjs']]]) {
  const { status } = spawnSync(command, args, { stdio, cwd: dirname(import.meta.dirname) });
  if (status !== 0) process.exit(status ?? 1);
}
