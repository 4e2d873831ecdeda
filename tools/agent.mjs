// `npm run agent`: builds what has changed and runs the license agent, the program that stands beside a customer's product.
import { spawnSync } from 'node:child_process';
import { enableCompileCache } from 'node:module';

const { status } = spawnSync('tsc', ['-b', 'apps/license-agent', 'apps/license-agent/src/page'], { stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);
enableCompileCache();
await import('../apps/license-agent/dist/main.js');
