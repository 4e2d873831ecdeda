// `npm run dev`: runs the sources directly and starts over when one of them changes.
import { spawn } from 'node:child_process';

const child = spawn(
  process.execPath,
  ['--watch', '--enable-source-maps', '--conditions=@keyledger/source', '--import', './tools/swc-register.mjs', 'apps/standalone/src/main.ts'],
  { stdio: 'inherit' },
);
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code) => process.exit(code ?? 0));
