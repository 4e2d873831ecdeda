// `npm run docs`: prints what can be printed from the code. `--check` only tells whether it is up to date.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import './build.mjs';

const { errors, permissions, roles } = await import('@keyledger/kernel');
const { bus, webhookBodies } = await import('@keyledger/contracts');
const { transitions, verdictDetails, verdictRules } = await import('@keyledger/domain');
const { natsUsers } = await import('@keyledger/messaging');

const table = (head, rows) => [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

/** The type of a field, in a word or two. */
const typeOf = ({ anyOf, const: only, enum: choices, type, pattern, format }) =>
  anyOf ? anyOf.map(typeOf).join(' or ') : only !== undefined ? `\`${only}\`` : choices ? choices.map((one) => `\`${one}\``).join(', ') : pattern ? `id \`${pattern.slice(1, 4)}_…\`` : format === 'date-time' ? 'instant' : type;
const fieldsOf = ({ properties }) => Object.entries(properties);
const common = fieldsOf(webhookBodies['license.assigned'].properties.data);
const isCommon = (data, name) => name === 'environment' || ('licenseId' in data.properties && common.some(([one]) => one === name));

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
  'docs/webhooks.md': `# Webhooks

What receivers are sent. The shapes are public API: members are added, never renamed or dropped, so ignore what you do not know. Printed from \`libs/contracts/src/webhook.ts\` by \`npm run docs\`; the same is in the OpenAPI document under \`webhooks\`.

\`\`\`json
{ "type": "license.suspended", "timestamp": "2026-12-01T09:30:00.000Z", "data": { "environment": "production", "licenseId": "lic_…", "cause": "payment", "reason": "unpaid", … } }
\`\`\`

**Know the sender.** [Standard Webhooks](https://www.standardwebhooks.com): \`webhook-signature\` is \`v1,\` and the base64 of HMAC-SHA256 over \`<webhook-id>.<webhook-timestamp>.<body>\`, one for each secret that is valid, separated by blanks; any of its libraries checks that. Take the body as it arrived, and refuse what is older than five minutes.
**Answer** 2xx within 15 s, before you work on it. Anything else, a redirection too, is tried again: ten times within some 75 hours, the environment's time. 410 disables the endpoint; so does a delivery that is given up after three days in which nothing was taken.
**Expect** the same \`webhook-id\` more than once, and no order: \`timestamp\` says when it happened, the API how it is now.
**All** that happens while an endpoint is enabled is sent, however often something dies. Refused activations of a license are told at once and then once an hour, gathered; a crash may cost the last second or two of them.
**Never** is a license key sent, nor anything of a person: ids, and the first characters of the key (\`keyPrefix\`). So \`deploymentId\` is null; the list of activations has it.

Everything about a license has ${common.filter(([name]) => name !== 'environment').map(([name]) => `\`${name}\``).join(', ')}; all of it has \`environment\`.

${table(['type', 'and besides'], Object.entries(webhookBodies).map(([type, { properties: { data } }]) => [`\`${type}\``, fieldsOf(data).filter(([name]) => !isCommon(data, name)).map(([name, schema]) => `\`${name}\` (${typeOf(schema)})`).join(' · ') || '–']))}
`,
};

pages['deploy/nats.conf'] = `# Requests and replies between the services: nothing that NATS carries is kept, so nothing is lost with it.
# Printed from \`libs/contracts/src/bus.ts\` by \`npm run docs\`. The passwords come from the environment of nats-server.
port: 4222
# For the health check alone.
http: 127.0.0.1:8222
# A page of a hundred licenses has room; the default is 1 MB.
max_payload: 8MB
# A process that hangs keeps its connection, and would be given its share of the requests: whoever has not answered after 3 to 4 s is not asked any more.
ping_interval: "1s"
ping_max: 2
${natsUsers(bus, (service) => `$NATS_PASSWORD_${service.toUpperCase().replaceAll('-', '_')}`)}`;

const stale = Object.entries(pages).filter(([path, text]) => !existsSync(path) || readFileSync(path, 'utf8') !== text);
if (process.argv.includes('--check')) {
  for (const [path] of stale) console.error(`${path} is not what the code says: run npm run docs`);
  process.exit(stale.length ? 1 : 0);
}
for (const [path, text] of stale) writeFileSync(path, text);
console.log(`docs: ${stale.length} files written`);
