// `npm test`: builds (the end-to-end tests run the built product), then runs every spec. Arguments go to Jest.
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import './build.mjs';

// Many specs start programs, and each would compile the same modules again.
process.env.NODE_COMPILE_CACHE ??= join(tmpdir(), 'keyledger-e2e-compile-cache');
const { status } = spawnSync(process.execPath, ['--experimental-vm-modules', '--no-warnings', 'node_modules/jest/bin/jest.js', ...process.argv.slice(2)], { stdio: 'inherit' });
process.exit(status ?? 1);
