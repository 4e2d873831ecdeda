import { constants } from 'node:os';
import { run } from './commands.ts';

// In order: what the run has put somewhere for itself goes with it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(128 + constants.signals[signal]));

const code = await run(process.argv.slice(2));
// What failed may have left something open that would keep the process waiting.
if (code === 0) process.exitCode = code;
else process.exit(code);
