import { run } from './commands.ts';

const code = await run(process.argv.slice(2));
// What failed may have left something open that would keep the process waiting.
if (code === 0) process.exitCode = code;
else process.exit(code);
