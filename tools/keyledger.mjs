// `npm run --silent keyledger -- <command>`: builds what has changed and runs the command line. Standard output is the command's own.
import './build.mjs';

await import('../dist/cli.js');
