// `npm run bench`: measures the built product beside a bare Node server and prints a table and a JSON document. docs/performance.md says how.
//   npm run bench -- --quick   npm run bench -- --only validate,search   npm run bench -- --json figures.json   npm run bench -- --docs
//   npm run bench -- --only sweep --swept 100000   fewer licenses than the million, of which one in a hundred is due
import { execFile } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import './build.mjs';
import { agentToken, appends, Generator, natsRequester, natsResponder, newFolder, rootKey, sleep, startAgent, startDistributed, startEcho, startProduct } from './bench/processes.mjs';
import { warmUp } from './bench/warm.mjs';

const { startNats, startPostgres } = await import('@keyledger/servers');

/** What --only takes. Some are measured together. */
const parts = {
  validate: validating, signed: signing, heartbeats: beating, activate: writing, order: writing, usage: metering, many: withManyLicenses, search: withManyLicenses, busy: withManyLicenses,
  rebuild: rebuilding, start: starting, memory: starting, sweep: sweeping, agent: asking, bulk, distributed,
};
const { values: options } = parseArgs({ options: { quick: { type: 'boolean' }, only: { type: 'string' }, json: { type: 'string' }, docs: { type: 'boolean' }, swept: { type: 'string' } } });
const { rounds, seconds, warmUps, few, many, rebuilt, batched, starts, ...others } = options.quick
  ? { rounds: 1, seconds: 1, warmUps: 1, few: 1_000, many: 10_000, rebuilt: 5_000, batched: 5_000, starts: 1, swept: 10_000 }
  : { rounds: 3, seconds: 3, warmUps: 10, few: 1_000, many: 100_000, rebuilt: 40_000, batched: 10_000, starts: 5, swept: 1_000_000 };
const swept = Number(options.swept ?? others.swept);
const due = swept / 100;
const chosen = options.only?.split(',') ?? Object.keys(parts);
for (const name of chosen) if (!Object.hasOwn(parts, name)) throw new Error(`--only knows ${Object.keys(parts).join(', ')}`);

const recordsPerBatch = 50;
const boxes = 10_000;
const control = { authorization: `Bearer ${rootKey}` };
const generator = new Generator();
const rows = [];
const [load] = loadavg();
const startedAt = performance.now();
for (const measure of new Set(chosen.map((name) => parts[name]))) await measure();
generator.stop();
report();

// ---- what is measured -------------------------------------------------------------------------------------------------------------------

/** The hot path, beside an echo of the same request body. */
async function validating() {
  say('validate: starting, and selling licenses');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { licenses } = await sell(server, few);
  const instances = await activateEach(server, licenses);
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  generator.define('instances', licenses.map(({ id, key }) => JSON.stringify({ licenseKey: key, instanceId: instances.get(id) })));
  const figures = await inTurn({
    'echo': [bare, echo('licenses')], 'validate': [server, validate('licenses')],
    'echo of an instance': [bare, echo('instances')], 'validate an instance': [server, validate('instances')],
  });
  against(figures, 'validate', 'echo', 0.45);
  against(figures, 'validate an instance', 'echo of an instance', 0.45);
  await Promise.all([bare.stop(), server.stop()]);
}

/** A validation whose answer is signed, beside an echo of the same body and beside nothing but signatures on one core. */
async function signing() {
  say('signed validate: starting, and selling licenses');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { licenses } = await sell(server, few);
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  generator.define('keys', licenses.map(({ key }) => key));
  const { echo: base, signed } = await inTurn({ echo: [bare, echo('licenses')], signed: [server, signedValidate('keys')] });
  const signatures = signaturesPerSecond(seconds);
  const shares = signed.map(({ perSecond }, round) => perSecond / Math.min(base[round].perSecond, signatures));
  row({ name: 'validate, signed', value: median(shares), at: 'least', target: 0.5, unit: 'of echo or signatures', detail: { shares, ...summary(signed), echo: summary(base), signatures } });
  await Promise.all([bare.stop(), server.stop()]);
}

/** Heartbeats of as many boxes, each written to the disk before it is answered. */
async function beating() {
  say('heartbeats: starting, and binding boxes');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { licenses } = await sell(server, boxes, { validationMode: 'heartbeat' });
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  generator.define('boxes to bind', licenses.map(({ id, key }) => [id, key, id]));
  const { results: [{ kept }] } = await generator.run({
    streams: [{ method: 'POST', path: '/licenses/*/activate', headers: { authorization: 'License *' }, body: '{"fingerprint":"board of *"}', values: 'boxes to bind', order: 'cycle', port: server.port, status: 201, requests: boxes, keep: boxes, connections: 1 }],
  });
  generator.define('boxes', licenses.map(({ id, key }, n) => [id, key, `"activationId":"${JSON.parse(kept[n]).activationId}","fingerprint":"board of ${id}"`]));
  const figures = await inTurn({ echo: [bare, echo('licenses')], heartbeats: [server, heartbeat('boxes')] });
  against(figures, 'heartbeats', 'echo', 0.15);
  await Promise.all([bare.stop(), server.stop()]);
}

/** What one core does when it does nothing else. */
function signaturesPerSecond(length) {
  const { privateKey } = generateKeyPairSync('ed25519');
  const payload = Buffer.alloc(1_000, 'x');
  const until = performance.now() + length * 1000;
  let count = 0;
  for (; performance.now() < until; count++) sign(null, payload, privateKey);
  return count / length;
}

/** What ends on the disk before it is answered; then the server is killed, and what it answered last has to be there. */
async function writing() {
  say('activate and order: starting, and selling licenses');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { plan, licenses: [hot, ...others] } = await sell(server, 10_000);
  generator.define('hot', [hot.key]);
  generator.define('others', others.map(({ key }) => key));
  const placed = { ...order(plan), keep: 500 };
  const figures = await inTurn({
    'echo': [bare, { ...echo(), body: '{"licenseKey":"KL-0000000-0000000-0000000","instanceName":"laptop","fingerprint":"machine-0000000000"}' }],
    'activate, many licenses': [server, activate('others')], 'activate, one license': [server, activate('hot')], 'order': [server, placed],
  });
  against(figures, 'activate, many licenses', 'echo', 0.15);
  against(figures, 'activate, one license', 'echo', 0.15);
  against(figures, 'order', 'echo', 0.08);
  await usableAtOnce(server, plan);
  const { results: [last] } = await generator.run({ seconds: 0.5, streams: [{ ...placed, port: server.port }] });
  await Promise.all([bare.stop(), server.stop('SIGKILL')]);
  const again = await startProduct(server.folder);
  generator.define('sold last', last.kept.flatMap((answer) => JSON.parse(answer).licenses.map(({ key }) => JSON.stringify({ licenseKey: key }))));
  await generator.run({ streams: [{ ...validate('sold last'), order: 'cycle', port: again.port, connections: 8, requests: last.kept.length }] });
  say(`  killed and started again: the last ${last.kept.length} licenses sold are there and valid`);
  await again.stop();
}

/** Records of usage, fifty to a request, each with an id never seen before. */
async function metering() {
  say('usage: starting, and selling licenses');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { licenses } = await sell(server, few);
  const instances = await activateEach(server, licenses);
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  generator.define('instances in a batch', licenses.map(({ id, key }) => `"licenseKey":"${key}","instanceId":"${instances.get(id)}"`));
  const { echo: base, usage } = await inTurn({ echo: [bare, echo('licenses')], usage: [server, batch('instances in a batch')] });
  const shares = usage.map(({ perSecond }, round) => perSecond * recordsPerBatch / base[round].perSecond);
  row({ name: 'usage, records in batches of 50', value: median(shares), at: 'least', target: 0.5, unit: 'of the echo', detail: { shares, ...summary(usage), records: median(usage.map(({ perSecond }) => perSecond * recordsPerBatch)), echo: summary(base) } });
  await Promise.all([bare.stop(), server.stop()]);
}

async function withManyLicenses() {
  say(`many licenses: selling ${few} and ${many}`);
  const [small, large] = [await startProduct(), await startProduct()];
  const sold = { few: (await sell(small, few)).licenses };
  const startedAt = performance.now();
  const { plan, licenses } = await sell(large, many);
  say(`  ${format(many / (performance.now() - startedAt) * 1000)} licenses/s`);
  const body = ({ key }) => JSON.stringify({ licenseKey: key });
  generator.define('few', sold.few.map(body));
  generator.define('many', licenses.map(body));
  generator.define('keys', licenses.map(({ key }) => key));
  // Each license has been asked about before, as those in use have been.
  const { results: [first] } = await generator.run({ streams: [{ ...validate('many'), order: 'cycle', port: large.port, requests: many }] });
  const { few: base, many: grown } = await inTurn({ few: [small, validate('few')], many: [large, validate('many')] });
  const ratios = grown.map(({ p50 }, round) => p50 / base[round].p50);
  row({
    name: `validate p50, ${many / 1000}k licenses against ${few / 1000}k`, value: median(ratios), at: 'most', target: 1.2, unit: '×',
    detail: { ratios, few: summary(base), many: summary(grown), firstTime: figuresOf(first) },
  });
  await small.stop();

  say('search');
  for (const [name, letters, target] of [['4 to 12 letters of a key', [4, 12], 50], ['3 letters', [3, 3]]]) {
    generator.define('parts', licenses.slice(0, 5_000).map(({ key }) => partOf(key, ...letters)));
    const found = await inTurn({ search: [large, { ...search('parts'), connections: 1 }] });
    row({ name: `search by ${name}, p95`, value: median(found.search.map(({ p95 }) => p95)), at: 'most', target, unit: 'ms', detail: summary(found.search) });
  }

  say('validate while others search and buy');
  generator.define('parts', licenses.slice(0, 5_000).map(({ key }) => partOf(key, 4, 12)));
  const noise = [{ ...search('parts'), connections: 4 }, { ...order(plan), connections: 8 }, { ...activate('keys'), connections: 8 }];
  const asked = [];
  for (let round = 0; round < rounds; round++) {
    const quiet = await measured(large, validate('many'));
    const { results: [busy, searches, orders, activations] } = await generator.run({
      seconds, streams: [validate('many'), ...noise].map((stream) => ({ ...stream, port: large.port })),
    });
    asked.push({ ratio: busy.p99 / quiet.p99, quiet: figuresOf(quiet), busy: figuresOf(busy), meanwhile: [searches, orders, activations].map(({ perSecond }) => perSecond) });
  }
  row({ name: 'validate p99, busy against quiet', value: median(asked.map(({ ratio }) => ratio)), at: 'most', target: 5, unit: '×', detail: asked });
  row({ name: `memory with ${many / 1000}k licenses, after all this`, value: large.memory, unit: 'MB' });
  await large.stop();
}

/** In processes of its own: what wrote the log has its folds and keys at hand, what reads it has not. */
async function rebuilding() {
  say('rebuild: writing a log');
  const run = promisify(execFile);
  const script = join(import.meta.dirname, 'bench/rebuild.mjs');
  const folder = newFolder();
  await run(process.execPath, [script, 'write', folder, String(rebuilt)]);
  say('rebuild: reading it');
  const { stdout } = await run(process.execPath, [script, 'read', folder]);
  const { events, seconds: taken, memory } = JSON.parse(stdout);
  row({ name: 'rebuild of the license list', value: events / median(taken), at: 'least', target: 50_000, unit: 'events/s', detail: { events, seconds: taken, memory } });
}

/** What expires in a day among very many licenses, said at once because the clock is put forward, while others go on asking. */
async function sweeping() {
  say(`sweep: writing ${format(swept)} licenses`);
  const folder = newFolder();
  const written = await promisify(execFile)(process.execPath, [join(import.meta.dirname, 'bench/licenses.mjs'), folder, String(swept), String(due)], { maxBuffer: 2 ** 26 });
  const { keys, seconds: taken } = JSON.parse(written.stdout);
  say(`  ${format(swept / taken)} licenses/s; starting, and building their list`);
  const server = await startProduct(folder, [], 1_200_000);
  const staging = { ...control, 'x-environment': 'staging' };
  generator.define('in staging', keys.map((licenseKey) => JSON.stringify({ licenseKey })));
  const asking = { ...validate('in staging'), headers: { 'x-environment': 'staging' } };
  await generator.run({ streams: [{ ...asking, order: 'cycle', port: server.port, requests: keys.length }] });
  const quiet = [];
  for (let round = 0; round < rounds; round++) quiet.push(await measured(server, asking));

  let answered = false;
  const startedAt = performance.now();
  const advanced = call(server, '/environments/staging/clock/advance', { seconds: 2 * 86_400 }, 200).then(() => {
    answered = true;
    return (performance.now() - startedAt) / 1000;
  });
  const busy = [];
  while (!answered) busy.push(await generator.measure(server, asking, 1));
  const waited = await advanced;
  // One takes longer than a request may: it is asked for again, and the second has nothing left to do.
  const { data: runs } = await (await fetch(`${server.url}/sweeps`, { headers: staging })).json();
  const expired = runs.reduce((sum, { transitions }) => sum + (transitions.LicenseExpired ?? 0), 0);
  if (expired !== due) throw new Error(`${due} licenses have expired, and the sweeps say ${JSON.stringify(runs)}`);
  row({ name: `sweep, ${due / 1000}k due of ${swept / 1000}k`, value: waited, at: 'most', target: 60, unit: 's', detail: { runs, memory: server.memory } });
  // The last second may be quiet in part.
  const during = busy.length > 1 ? busy.slice(0, -1) : busy;
  const base = median(quiet.map(({ p99 }) => p99));
  const ratios = during.map(({ p99 }) => p99 / base);
  row({ name: 'validate p99, during the sweep against quiet', value: median(ratios), at: 'most', target: 2, unit: '×', detail: { ratios, ...summary(during), quiet: summary(quiet) } });
  await server.stop();
}

/** A batch of licenses, beside single events appended to a log of their own, while others go on asking. */
async function bulk() {
  say('bulk: starting, and selling licenses');
  const server = await startProduct();
  const { licenses } = await sell(server, few);
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  const product = await call(server, '/products', { name: 'Brush' });
  const { id } = await call(server, '/generators', { name: 'Resellers', productId: product.id, keyFormat: { kind: 'crockford' } });
  const issued = async (count, meanwhile = () => sleep(25)) => {
    let job = await call(server, `/generators/${id}/batches`, { count }, 202);
    for (; !job.finishedAt; job = await (await fetch(`${server.url}/jobs/${job.id}`, { headers: control })).json()) await meanwhile();
    if (job.state !== 'completed' || job.done !== count || job.failed > 0) throw new Error(`A batch has come to ${JSON.stringify(job)}`);
    return count / (Date.parse(job.finishedAt) - Date.parse(job.startedAt)) * 1000;
  };
  await issued(few);
  const figures = [];
  for (let round = 0; round < rounds; round++) {
    const [appended, perSecond] = [await appends(newFolder(), seconds, 64), await issued(batched)];
    say(`  appends ${format(appended)}/s, licenses in a batch ${format(perSecond)}/s`);
    figures.push({ appended, perSecond, share: perSecond / appended });
  }
  const middle = (name) => median(figures.map((figure) => figure[name]));
  row({ name: `batch of ${batched / 1000}k licenses`, value: middle('perSecond'), at: 'least', target: 2_000, unit: 'licenses/s', detail: { ofAppends: middle('share'), appends: middle('appended') } });
  row({ name: 'the same, against single appends', value: middle('share'), unit: 'of bare appends' });
  await warm(server, validate('licenses'));
  const quiet = await generator.measure(server, validate('licenses'), seconds);
  const busy = [];
  await issued(batched, async () => busy.push(await generator.measure(server, validate('licenses'), 1)));
  const ratios = busy.map(({ p99 }) => p99 / quiet.p99);
  row({ name: 'validate p99, during a batch against quiet', value: median(ratios), at: 'most', target: 5, unit: '×', detail: { ratios, ...summary(busy), quiet: figuresOf(quiet) } });
  await server.stop();
}

async function starting() {
  say('starts');
  const first = [];
  const again = [];
  let memory;
  for (let round = 0; round < starts; round++) {
    const server = await startProduct();
    first.push(server.startMs);
    if (round === 0) {
      await sleep(5_000);
      ({ memory } = server);
    }
    await server.stop();
    const restarted = await startProduct(server.folder);
    again.push(restarted.startMs);
    await restarted.stop();
  }
  row({ name: 'first start', value: median(first) / 1000, at: 'most', target: 2, unit: 's', detail: first });
  row({ name: 'restart', value: median(again) / 1000, at: 'most', target: 2, unit: 's', detail: again });
  row({ name: 'memory, idle for 5 s', value: memory, at: 'most', target: 250, unit: 'MB' });
}

/** What a product asks its license agent on every request. */
async function asking() {
  say('agent: starting, and selling a license');
  const [bare, server] = [await startEcho(), await startProduct()];
  const { licenses: [{ key }] } = await sell(server, 100);
  const agent = await startAgent({ KEYLEDGER_SERVER_URL: server.url, LICENSE_KEY: key, KEYLEDGER_ROOT_PUBLIC_KEY: await (await fetch(`${server.url}/.well-known/keyledger-root.json`)).text() });
  const enforcement = { method: 'GET', path: '/api/enforcement', headers: { authorization: `Bearer ${agentToken}` }, expect: '"enforcement":"FULL"' };
  generator.define('license', [JSON.stringify({ licenseKey: key })]);
  const figures = await inTurn({ 'echo': [bare, echo('license')], 'agent, enforcement': [agent, enforcement] });
  against(figures, 'agent, enforcement', 'echo', 0.6);
  await agent.stop();
  await Promise.all([bare.stop(), server.stop()]);
}

/** A process per service, beside the bare NATS client on the same server and bare appends to the same PostgreSQL. */
async function distributed() {
  say('distributed: starting');
  const [nats, postgres] = [await startNats(), await startPostgres({ durable: true, settings: { max_connections: 400 } })];
  const responder = await natsResponder(nats.url);
  const server = await startDistributed({ nats: nats.url, postgres: postgres.url });
  await sleep(5_000);
  row({ name: 'slowest service to be ready', value: Math.max(...server.services.values()), at: 'most', target: 3, unit: 's', detail: Object.fromEntries(server.services) });
  const memory = server.children;
  row({ name: 'memory of all services, idle', value: memory.values().reduce((sum, each) => sum + each, 0), at: 'most', target: 1_200, unit: 'MB', detail: Object.fromEntries(memory) });
  const { licenses } = await sell(server, few);
  generator.define('licenses', licenses.map(({ key }) => JSON.stringify({ licenseKey: key })));
  generator.define('keys', licenses.map(({ key }) => key));
  const shares = { validate: [], activate: [], alone: [] };
  const figures = { validate: [], activate: [] };
  const bases = { requests: [], appends: [], alone: [] };
  for (const stream of [validate('licenses'), activate('keys')]) await warm(server, stream);
  const requester = await natsRequester(nats.url, 64);
  // Short turns, each beside the requests just before and after it: a shared machine may change its speed by half within some seconds.
  bases.requests.push(await requester.perSecond(seconds));
  for (let turn = 0; turn < rounds * 3; turn++) {
    await generator.measure(server, validate('licenses'), 1);
    figures.validate.push(await generator.measure(server, validate('licenses'), seconds));
    bases.requests.push(await requester.perSecond(seconds));
    const [before, after] = bases.requests.slice(-2);
    shares.validate.push((figures.validate.at(-1).perSecond * 2) / (before + after));
  }
  requester.stop();
  say(`  NATS ${bases.requests.map((each) => format(each)).join(', ')}/s, validate ${figures.validate.map(({ perSecond }) => format(perSecond)).join(', ')}/s`);
  sayPerProgram('validate', figures.validate.at(-1));
  for (let round = 0; round < rounds; round++) {
    const [alone, appended, activations] = [await appends(postgres.url, seconds, 1), await appends(postgres.url, seconds, 64), await measured(server, activate('keys'))];
    say(`  appends ${format(appended)}/s, one after the other ${format(alone)}/s, activate ${format(activations.perSecond)}/s`);
    sayPerProgram('activate', activations);
    bases.appends.push(appended);
    bases.alone.push(alone);
    figures.activate.push(activations);
    shares.activate.push(activations.perSecond / appended);
    shares.alone.push(activations.perSecond / alone);
  }
  row({ name: 'validate, distributed', value: median(shares.validate), at: 'least', target: 0.35, unit: 'of bare NATS requests', detail: { shares: shares.validate, ...summary(figures.validate), requests: median(bases.requests), cpuByProgram: figures.validate.at(-1).perRequest } });
  row({ name: 'activate, distributed', value: median(shares.activate), at: 'least', target: 0.25, unit: 'of bare appends', detail: { shares: shares.activate, ...summary(figures.activate), appends: median(bases.appends), cpuByProgram: figures.activate.at(-1).perRequest } });
  row({ name: 'the same, against appends one after the other', value: median(shares.alone), at: 'least', target: 0.25, unit: 'of bare appends', detail: { shares: shares.alone, appends: median(bases.alone) } });
  await server.stop();
  await responder.stop();
  await Promise.all([nats.stop(), postgres.stop()]);
}

function sayPerProgram(what, { perRequest }) {
  say(`    CPU per ${what}, µs: ${Object.entries(perRequest).map(([name, time]) => `${name} ${time}`).join(', ')}`);
}

/** A license is asked about as soon as its order is answered. */
async function usableAtOnce(server, plan) {
  const { id: customerId } = await call(server, '/customers', { name: 'Ada', email: 'ada@example.com' });
  for (let n = 0; n < 100; n++) {
    const { licenses: [{ key: licenseKey }] } = await call(server, '/orders', { planId: plan.id, customerId });
    const { valid } = await call(server, '/license/validate', { licenseKey }, 200);
    if (!valid) throw new Error('A license was sold that is not valid');
  }
}

// ---- requests ---------------------------------------------------------------------------------------------------------------------------

function order(plan, quantity = 1) {
  const body = JSON.stringify({ planId: plan.id, customerId: '*', quantity });
  return { method: 'POST', path: '/orders', headers: control, body, values: 'customers', status: 201, expect: '"key":"' };
}
function activate(keys) {
  const body = JSON.stringify({ licenseKey: '*', instanceName: 'laptop', fingerprint: 'machine-##########' });
  return { method: 'POST', path: '/license/activate', body, values: keys, status: 201, expect: '"activated":true' };
}
function validate(questions) {
  return { method: 'POST', path: '/license/validate', body: '*', values: questions, expect: '"valid":true' };
}
function signedValidate(keys) {
  return { method: 'POST', path: '/license/validate', body: '{"licenseKey":"*","nonce":"##########"}', values: keys, expect: '"token":"' };
}
/** A box comes again when all others have come: its numbers arrive in their order. */
function heartbeat(boxes) {
  return { method: 'POST', path: '/licenses/*/heartbeat', headers: { authorization: 'License *' }, body: '{*,"seq":1#########}', values: boxes, order: 'cycle', expect: '"state":"active"' };
}
function batch(instances) {
  const at = new Date().toISOString();
  const records = Array.from({ length: recordsPerBatch }, (_, n) => `{"id":"##########-${n}","meter":"max_dp_cores","value":${n},"at":"${at}"}`);
  return { method: 'POST', path: '/license/usage', body: `{*,"records":[${records.join(',')}]}`, values: instances, expect: `"accepted":${recordsPerBatch}` };
}
function search(parts) {
  return { method: 'GET', path: '/licenses?q=*', headers: control, values: parts, expect: '"data":[{' };
}
function echo(bodies = 'none') {
  return { method: 'POST', path: '/', body: '*', values: bodies, expect: '{"licenseKey":"' };
}

function partOf(key, least, most) {
  const length = least + Math.floor(Math.random() * (most - least + 1));
  const from = Math.floor(Math.random() * (key.length - length));
  return key.slice(from, from + length);
}

async function call(server, path, body, status = 201) {
  const response = await fetch(server.url + path, { method: 'POST', headers: { ...control, 'content-type': 'application/json' }, body: JSON.stringify(body) });
  if (response.status !== status) throw new Error(`POST ${path} answered ${response.status}: ${await response.text()}`);
  return response.json();
}

/** A plan with unlimited seats, fifty customers and so many licenses, a hundred to an order. */
async function sell(server, count, licensing = {}) {
  const product = await call(server, '/products', { name: 'Paint Pro' });
  const plan = await call(server, `/products/${product.id}/plans`, { name: 'Team', licensing: { enabled: true, activationLimit: -1, ...licensing } });
  const customers = await Promise.all(Array.from({ length: 50 }, (_, n) => call(server, '/customers', { name: `Customer ${n}`, email: `buyer@customer-${n}.example` })));
  generator.define('customers', customers.map(({ id }) => id));
  const orders = count / 100;
  const { results: [{ kept }] } = await generator.run({ streams: [{ ...order(plan, 100), port: server.port, connections: 4, requests: orders, keep: orders }] });
  return { plan, licenses: kept.flatMap((answer) => JSON.parse(answer).licenses) };
}

/** One instance on each license; resolves to instance ids by license id. */
async function activateEach(server, licenses) {
  generator.define('to activate', licenses.map(({ key }) => key));
  const { length } = licenses;
  const { results: [{ kept }] } = await generator.run({
    streams: [{ ...activate('to activate'), order: 'cycle', port: server.port, requests: length, keep: length }],
  });
  return new Map(kept.map((answer) => JSON.parse(answer)).map(({ license, instance }) => [license.id, instance.id]));
}

// ---- figures ----------------------------------------------------------------------------------------------------------------------------

/** Every stream once a round, one after the other, after each has been compiled. Answers each one's figures, round by round. */
async function inTurn(streams) {
  const entries = Object.entries(streams);
  const figures = Object.fromEntries(entries.map(([name]) => [name, []]));
  for (const [, [server, stream]] of entries) await warm(server, stream);
  for (let round = 0; round < rounds; round++) {
    for (const [name, [server, stream]] of entries) {
      const figure = await measured(server, stream);
      say(`  ${name}: ${format(figure.perSecond)}/s, p50 ${format(figure.p50)} ms, p99 ${format(figure.p99)} ms; CPU ${format(figure.cpu)} + ${format(figure.cpuOthers)} µs, generator ${format(figure.busy * 100)} %`);
      figures[name].push(figure);
    }
  }
  return figures;
}

/** What has had nothing to do for some seconds has forgotten half of what it had compiled: its first seconds are not counted. */
async function measured(server, stream) {
  await generator.measure(server, stream, seconds);
  return generator.measure(server, stream, seconds);
}

function warm(server, stream) {
  return warmUp(async (length) => (await generator.measure(server, stream, length)).perSecond, warmUps);
}

/** Requests per second as a share of what the echo did in the same round. */
function against(figures, name, base, target) {
  const shares = figures[name].map(({ perSecond }, round) => perSecond / figures[base][round].perSecond);
  row({ name, value: median(shares), at: 'least', target, unit: 'of the echo', detail: { shares, ...summary(figures[name]), echo: summary(figures[base]) } });
}

function figuresOf({ perSecond, p50, p95, p99, max, cpu, cpuOthers, busy }) {
  return { perSecond, p50, p95, p99, max, cpu, cpuOthers, generator: busy };
}
function summary(figures) {
  const all = figures.map(figuresOf);
  return Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(all.map((each) => each[name]))]));
}

function row({ name, value, at, target, unit, detail }) {
  const met = target === undefined ? undefined : at === 'least' ? value >= target : value <= target;
  rows.push({ name, value, unit, ...(target !== undefined && { target: { [at]: target }, met }), detail });
  say(line(rows.at(-1)));
}

function line(each) {
  const widths = [20, 9, 7, 46, 0];
  return [each.name.padEnd(44), ...cells(each).map((cell, n) => cell.padEnd(widths[n]))].join(' ').trimEnd();
}

function cells({ value, unit, target, met, detail = {} }) {
  const { perSecond, p50, p99, cpu, cpuOthers } = detail;
  return [
    `${format(value)} ${unit}`,
    target === undefined ? '' : target.least === undefined ? `≤ ${target.most}` : `≥ ${target.least}`,
    met === undefined ? '' : met ? 'met' : 'MISSED',
    perSecond === undefined ? '' : `${format(perSecond)}/s, p50 ${format(p50)} ms, p99 ${format(p99)} ms`,
    // The main thread's, and that of all others together.
    cpu === undefined || Number.isNaN(cpu) ? '' : `${format(cpu)} + ${format(cpuOthers)} µs`,
  ];
}

function report() {
  const [{ model }] = cpus();
  const minutes = (performance.now() - startedAt) / 60_000;
  const machine = { node: process.version, cores: availableParallelism(), cpu: model, loadBefore: load, pinned: false };
  const conditions = [
    `Node ${machine.node}, ${machine.cores} cores (${model}), nothing pinned to a core, ${rounds} × ${seconds} s each, medians.`,
    ...(load > 0.5 ? [`The machine had other work (load ${load.toFixed(1)} at the start), so the figures are too low and uneven.`] : []),
  ];
  const document = { ...machine, connections: 64, rounds, seconds, minutes, rows };
  console.log(`\n${conditions.join(' ')} ${minutes.toFixed(1)} minutes.\n\n${rows.map(line).join('\n')}\n\n${JSON.stringify(document)}`);
  if (options.json) writeFileSync(options.json, JSON.stringify(document, null, 2));
  if (options.docs) print(conditions);
}

/** The table in docs/performance.md. */
function print(conditions) {
  const file = 'docs/performance.md';
  const lines = rows.map((each) => {
    const [value, wanted, verdict, rate, cpu] = cells(each);
    return `| ${each.name} | ${value} | ${wanted} | ${verdict} | ${rate} | ${cpu} |`;
  });
  const table = ['| | reached | target | | rate and latency | CPU per request |', '| --- | --- | --- | --- | --- | --- |', ...lines];
  const text = readFileSync(file, 'utf8').replace(/(?<=<!-- figures -->\n)[\s\S]*(?=<!-- \/figures -->)/, () => [...table, '', ...conditions, ''].join('\n'));
  writeFileSync(file, text);
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}
function format(number) {
  return number >= 1000 ? Math.round(number).toLocaleString('en') : Number(number.toPrecision(3)).toString();
}
function say(text) {
  process.stderr.write(`${text}\n`);
}
