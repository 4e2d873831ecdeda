// `npm run --silent keyledger -- <command>`: builds what has changed and runs the command line. Standard output is the command's own.
import { spawnSync } from 'node:child_process';

const { status } = spawnSync('tsc', ['-b', 'apps/cli'], { stdio: ['inherit', 2, 2] });
if (status !== 0) process.exit(status ?? 1);
await import('../apps/cli/dist/main.js');
