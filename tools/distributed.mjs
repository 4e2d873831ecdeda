// `npm run distributed`: builds what has changed and runs every service as a process of its own, with NATS and PostgreSQL.
import { spawnSync } from 'node:child_process';

const { status } = spawnSync('tsc', ['-b'], { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
await import('../apps/distributed/dist/main.js');
