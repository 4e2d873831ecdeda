// `npm start`: builds what has changed and runs the whole product in this process, on embedded stores.
import { spawnSync } from 'node:child_process';
import { enableCompileCache } from 'node:module';

const { status } = spawnSync('tsc', ['-b'], { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
enableCompileCache();
await import('../apps/standalone/dist/main.js');
