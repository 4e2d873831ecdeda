// `npm run check`: types (specs included), lint, house rules, printed docs, a complete lock file. Under a minute.
import { spawnSync } from 'node:child_process';

const steps = [
  ['types', 'tsc', ['-b']],
  ['types of the specs', 'tsc', ['-p', 'tsconfig.spec.json']],
  ['lint', 'oxlint', ['--deny-warnings', 'apps', 'libs', 'tools']],
  ['house rules', process.execPath, ['tools/house-rules.mjs']],
  ['printed docs', process.execPath, ['tools/docs.mjs', '--check']],
  ['lock file', process.execPath, ['tools/complete-lock.mjs', '--check']],
];
for (const [name, command, args] of steps) {
  const started = Date.now();
  const { status } = spawnSync(command, args, { stdio: 'inherit' });
  console.log(`${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  if (status !== 0) process.exit(status ?? 1);
}
