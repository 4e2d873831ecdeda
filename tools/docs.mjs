// `npm run docs`: prints what can be printed from the code. `--check` only tells whether it is up to date.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { errors, permissions, roles } from '../libs/kernel/dist/index.js';
import { transitions, verdictDetails, verdictRules } from '../libs/domain/dist/index.js';

const table = (head, rows) => [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

const pages = {
  'docs/errors.md': `# Errors

Every refusal is \`application/problem+json\` (RFC 9457) with one of these codes. They are public API: codes are added, never renamed.
Printed from \`libs/kernel/src/errors.ts\` by \`npm run docs\`.

${table(['code', 'status', 'meaning'], Object.entries(errors).map(([code, { status, title }]) => [`\`${code}\``, status, title]))}
`,
  'docs/domain.md': `# The rules at a glance

Printed from \`libs/domain\` and \`libs/kernel\` by \`npm run docs\`.

## What is possible in which state

\`before\` is what the license was underneath the hold or the expiry; \`same\` changes no status.

${table(['from', 'step → next'], Object.entries(transitions).map(([from, steps]) => [`**${from}**`, Object.entries(steps).map(([step, next]) => `${step} → ${next}`).join(' · ')]))}

## The verdict of a validation, in order of precedence

Everything before \`RESTRICTED\` is invalid. \`EXPIRED\` locks instead when the terms say \`expiredEnforcement: LOCKED\`.

${table(['code', 'enforcement', 'what people are told'], Object.entries(verdictRules).map(([code, enforcement]) => [`\`${code}\``, enforcement, verdictDetails[code]]))}

## Roles and permissions

${table(['permission', ...Object.keys(roles)], permissions.map((permission) => [`\`${permission}\``, ...Object.values(roles).map((granted) => (granted.includes(permission) ? '✓' : ''))]))}
`,
};

const stale = Object.entries(pages).filter(([path, text]) => !existsSync(path) || readFileSync(path, 'utf8') !== text);
if (process.argv.includes('--check')) {
  for (const [path] of stale) console.error(`${path} is not what the code says: run npm run docs`);
  process.exit(stale.length ? 1 : 0);
}
for (const [path, text] of stale) writeFileSync(path, text);
console.log(`docs: ${stale.length} pages written`);
