import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { afterEach, describe, expect, it, jest } from '@jest/globals';
import {
  ActivateSigningKey, CreateSigningKey, GetKeySet, GetRootKeys, ListSigningKeys, RetireSigningKey, RevokeSigningKey, SignLeases, SignLicenseFile, SignOfflineFile, SignVerdicts,
  type Certificate, type SigningKeyView,
} from '@keyledger/contracts';
import { signingPurposes, type SigningPurpose } from '@keyledger/domain';
import { EventStores } from '@keyledger/event-store';
import { addDays, addSeconds, Clock, runIn, systemContext, type Instant } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Verifier } from '@keyledger/license-file';
import { InProcessTransport, type Fields, type Message, type MessageType, type ResultOf } from '@keyledger/messaging';
import { openHost } from '@keyledger/process';
import { openStores } from '@keyledger/stores';
import { until } from '@keyledger/testing';
import { SigningModule, signingSchema, type SigningConfig } from './index.ts';
import { KeyStore, SealedKeys } from './key-store.ts';
import { Keys, SigningStreams } from './keys.ts';
import { certify } from './offline-root.ts';

const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'signing-'));
  ends.push(() => rmSync(made, { recursive: true }));
  return made;
}

const noConfig: SigningConfig = { passphrase: undefined, rootExport: undefined };
const passphrase = 'correct horse battery staple';

/** The signing service on embedded stores, asked by messages. Its clock can be moved. */
async function start(dataDir = folder(), config = noConfig, daysLater = 0) {
  const transport = new InProcessTransport();
  const host = await openHost('test', { logLevel: 'silent', tracing: { endpoint: undefined, disabled: true, sampleRatio: 1 } }, transport);
  let ahead = daysLater * 86_400;
  const clock: Clock = { now: (environment) => addSeconds(host.clock.now(environment), ahead) };
  const stores = await openStores({ dataDir, masterKey: { value: undefined, file: undefined }, databaseUrl: undefined, eventStoreUrl: undefined, connections: 1 }, host, [signingSchema]);
  let open = true;
  const close = async () => {
    if (!open) return;
    open = false;
    await host.close();
    await stores.close();
  };
  ends.push(close);
  const complaints = jest.spyOn(host.log, 'error');
  const app = await host.start('signing', SigningModule.with([...host.providers, ...stores.providers, { provide: Clock, useValue: clock }], config)).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  const ask = <M extends Message>(type: MessageType<M>, fields: Fields<M>, environment = 'production'): Promise<ResultOf<M>> =>
    runIn(systemContext(environment, clock.now(environment)), () => host.messages.send(type, fields));
  return {
    ask, close, dataDir, complaints,
    passDays: (days: number) => void (ahead += days * 86_400),
    now: (): Instant => clock.now('production'),
    metrics: () => host.metrics.expose(),
    has: (kid: string, environment = 'production') => runIn(systemContext(environment, clock.now(environment)), () => app.get(KeyStore).has(kid)),
    /** Who signs in another process, with the same log and the same keys. */
    async another(): Promise<(purpose: SigningPurpose) => Promise<string>> {
      const keys = new Keys(new SigningStreams(app.get(EventStores), app.get(Keyrings)), app.get(KeyStore), clock, host.log);
      await keys.listen();
      ends.push(() => keys.close());
      return (purpose) => runIn(systemContext('production', clock.now('production')), async () => (await keys.signer(purpose)).kid);
    },
    log: app.get(EventStores).of('production'),
    recorded: async () => (await app.get(EventStores).of('production').readAll(0)).flatMap(({ type, data }) => (type === 'SignaturesRecorded' ? (data as { signatures: Record<string, unknown>[] }).signatures : [])),
    create: (purpose: SigningPurpose) => ask(CreateSigningKey, { purpose }),
    activate: (kid: string, certificate?: Certificate) => ask(ActivateSigningKey, { kid, certificate }),
    retire: (kid: string) => ask(RetireSigningKey, { kid }),
    revoke: (kid: string) => ask(RevokeSigningKey, { kid }),
    keys: async (environment?: string) => (await ask(ListSigningKeys, { limit: 100 }, environment)).data,
    async verifier(environment = 'production') {
      const opened = await Verifier.open(await ask(GetRootKeys, {}, environment));
      if (!opened.ok) throw new Error(opened.reason);
      expect(await opened.verifier.learn(await ask(GetKeySet, {}, environment))).toEqual({ ok: true, refused: [] });
      return opened.verifier;
    },
  };
}
type Service = Awaited<ReturnType<typeof start>>;

const sealedIn = (dataDir: string): string[] => {
  const database = new DatabaseSync(join(dataDir, 'production', 'state.db'), { readOnly: true });
  const rows = database.prepare("select sealed from signing_sealed_keys where kid not like '#%' order by kid").all();
  database.close();
  return rows.map(({ sealed }) => String(sealed));
};

/** A bit of its private key is wrong, like that of one that was sealed under another secret. */
function damage(dataDir: string, kid: string | undefined): void {
  const database = new DatabaseSync(join(dataDir, 'production', 'state.db'));
  expect(database.prepare("update signing_sealed_keys set sealed = substr(sealed, 1, length(sealed) - 4) || 'AAAA' where kid = ?").run(kid ?? '').changes).toBe(1);
  database.close();
}

const license = {
  id: 'lic_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001', productId: 'prd_01937c2e-0b5a-7c1d-8a53-2f1d9c7be002', planId: null, activationLimit: 3, effectiveAt: null, expiresAt: null, expiryGraceDays: 0,
  overageGraceDays: 7, offlineGraceDays: 14, trial: null, validationMode: 'heartbeat', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null, binding: 'none',
  seats: 'node-locked', features: { sso: true }, quotas: [], featureFlags: {}, serialNumber: null, expiredEnforcement: 'READ_ONLY',
} as const;
const activationId = 'act_01937c2e-0b5a-7c1d-8a53-2f1d9c7be004';
const verdict = { valid: true, code: 'VALID', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, decisionId: 'd', checkedAt: '2026-11-21T12:00:00.000Z' } as const;

const fileFrom = ({ ask }: Service, over: object = {}, environment?: string) => ask(SignLicenseFile, { seq: 1, status: 'active', customer: null, license: { ...license, ...over } }, environment);
const leaseFrom = async ({ ask }: Service, over: object = {}) =>
  (await ask(SignLeases, { leases: [{ activationId, fingerprint: 'fp', counter: 0, seq: 1, seconds: 1_209_600, license: { ...license, ...over } }] })).tokens[0] ?? null;
const verdictFrom = async ({ ask }: Service, nonce = 'n') =>
  (await ask(SignVerdicts, { verdicts: [{ nonce, audience: null, instanceId: null, fingerprint: null, seq: 1, verdict, license: { id: license.id, status: 'active', productId: license.productId } }] })).tokens[0] ?? null;
const only = (keys: readonly SigningKeyView[], purpose: SigningPurpose, state: string) => keys.filter((key) => key.purpose === purpose && key.state === state);

describe('The signing service', () => {
  it('has a root and an active, certified key for every purpose from its first start on, other ones in each environment, and the same after a restart', async () => {
    const service = await start();
    const keys = await service.keys();
    expect(keys.map(({ purpose, state }) => `${purpose} ${state}`).sort()).toEqual(signingPurposes.map((purpose) => `${purpose} active`).sort());
    const staging = await service.keys('staging');
    expect(new Set([...keys, ...staging].map(({ kid }) => kid)).size).toBe(10);
    const roots = await service.ask(GetRootKeys, {});
    expect(roots).toMatchObject({ environment: 'production', roots: [{ kty: 'OKP', crv: 'Ed25519', alg: 'Ed25519', use: 'sig' }] });
    expect(await service.ask(GetRootKeys, {}, 'staging')).not.toEqual(roots);
    await service.close();
    const again = await start(service.dataDir);
    expect(await again.keys()).toEqual(keys);
    expect(await again.ask(GetRootKeys, {})).toEqual(roots);
  });

  it('signs what verifiers accept, and counts it', async () => {
    const service = await start();
    const verifier = await service.verifier();
    const now = service.now();
    expect(await verifier.licenseFile((await fileFrom(service)).content, { now })).toMatchObject({ ok: true, file: { environment: 'production', seq: 1, license } });
    const offline = await service.ask(SignOfflineFile, { seq: 1, activationId, fingerprint: 'fp', verdict, license });
    expect(await verifier.offlineFile(offline.content, { now: service.now(), fingerprint: 'fp', subject: license.id })).toMatchObject({ ok: true, file: { verdict } });
    expect(await verifier.offlineFile(offline.content, { now: addDays(now, 1.01) })).toEqual({ ok: false, reason: 'EXPIRED' });
    expect(await verifier.lease(await leaseFrom(service) ?? '', { now: service.now(), subject: activationId, audience: license.productId, fingerprint: 'fp' })).toMatchObject({ ok: true, claims: { seq: 1, counter: 0, license } });
    expect(await verifier.verdict(await verdictFrom(service) ?? '', { now: service.now(), nonce: 'n', subject: license.id })).toMatchObject({ ok: true, claims: { verdict } });
    const metrics = await service.metrics();
    for (const statement of ['license-file', 'offline-file', 'lease', 'verdict']) expect(metrics).toContain(`keyledger_signatures_total{statement="${statement}",service="test"} 1`);
  });

  it('records each file and lease before it is signed, and no verdict', async () => {
    const service = await start();
    await fileFrom(service);
    await service.ask(SignOfflineFile, { seq: 2, activationId, fingerprint: null, verdict, license });
    await leaseFrom(service);
    await leaseFrom(service);
    await verdictFrom(service);
    const recorded = await service.recorded();
    expect(recorded.map((one) => [one['statement'], one['licenseId'], one['activationId']])).toEqual([['license-file', license.id, null], ...['offline-file', 'lease', 'lease'].map((statement) => [statement, license.id, activationId])]);
    expect(new Set(recorded.map(({ digest }) => digest)).size).toBe(4);
    // Too large to be read by anybody: it is recorded, and never signed.
    const featureFlags = { text: 'x'.repeat(70_000) };
    await expect(fileFrom(service, { featureFlags })).rejects.toMatchObject({ code: 'LICENSE_TOO_LARGE' });
    expect(await leaseFrom(service, { featureFlags })).toBeNull();
    expect(await service.recorded()).toHaveLength(6);
  });

  it('signs nothing when what it is about to sign cannot be recorded', async () => {
    const service = await start();
    jest.spyOn(service.log, 'append').mockRejectedValue(new Error('the disk is full'));
    await expect(leaseFrom(service)).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(fileFrom(service)).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(await service.metrics()).not.toContain('keyledger_signatures_total{');
    expect(await verdictFrom(service)).not.toBeNull();
  });

  it('signs statements only: what is none is refused, and nothing is signed', async () => {
    const service = await start();
    await expect(service.ask(SignLicenseFile, { seq: 1, status: 'active', customer: null, license: { anything: true } as never })).rejects.toMatchObject({ code: 'INTERNAL' });
    await expect(service.ask(SignVerdicts, { verdicts: [{ nonce: 'n', audience: null, instanceId: null, fingerprint: null, seq: 1, verdict: 'yes' as never, license: null }] })).rejects.toMatchObject({ code: 'INTERNAL' });
    expect(await service.metrics()).not.toContain('keyledger_signatures_total{');
  });

  it('signs for the environment of the message, whatever else it says', async () => {
    const service = await start();
    const { content } = await fileFrom(service, { environment: 'production' }, 'staging');
    expect(await (await service.verifier('staging')).licenseFile(content, { now: service.now() })).toMatchObject({ ok: true, file: { environment: 'staging' } });
    expect(await (await service.verifier()).licenseFile(content, { now: service.now() })).toEqual({ ok: false, reason: 'WRONG_ENVIRONMENT' });
  });

  it('rotates: the key before retires, what it signed stays good, and the next one signs at once', async () => {
    const service = await start();
    const [before] = only(await service.keys(), 'license-file', 'active');
    const old = await fileFrom(service);
    const oldLease = await leaseFrom(service) ?? '';
    const staged = await service.create('license-file');
    expect(staged).toMatchObject({ state: 'staged', purpose: 'license-file' });
    expect((await service.ask(GetKeySet, {})).keys.some(({ kid }) => kid === staged.kid)).toBe(false);
    expect(await service.activate(staged.kid)).toMatchObject({ state: 'active' });
    await service.activate((await service.create('lease')).kid);
    const keys = await service.keys();
    expect(only(keys, 'license-file', 'active').map(({ kid }) => kid)).toEqual([staged.kid]);
    expect(only(keys, 'license-file', 'retired').map(({ kid }) => kid)).toEqual([before?.kid]);
    const verifier = await service.verifier();
    expect(await verifier.licenseFile(old.content, { now: service.now() })).toMatchObject({ ok: true, kid: before?.kid });
    expect(await verifier.licenseFile((await fileFrom(service)).content, { now: service.now() })).toMatchObject({ ok: true, kid: staged.kid });
    expect(await verifier.lease(oldLease, { now: service.now() })).toMatchObject({ ok: true });
  });

  it('revokes: what the key signed is good no more, and another one signs from then on', async () => {
    const service = await start();
    const [key] = only(await service.keys(), 'license-file', 'active');
    const [leaseKey] = only(await service.keys(), 'lease', 'active');
    const [file, lease] = [await fileFrom(service), await leaseFrom(service) ?? ''];
    await service.revoke(key?.kid ?? '');
    await service.revoke(leaseKey?.kid ?? '');
    const [fileNow, leaseNow] = [await fileFrom(service), await leaseFrom(service) ?? ''];
    const verifier = await service.verifier();
    expect((await service.ask(GetKeySet, {})).revoked).toEqual(expect.arrayContaining([key?.kid, leaseKey?.kid]));
    expect(await verifier.licenseFile(file.content, { now: service.now() })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    expect(await verifier.lease(lease, { now: service.now() })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    expect(await verifier.licenseFile(fileNow.content, { now: service.now() })).toMatchObject({ ok: true });
    // Whoever has the list of nobody but who stands in between believes none of it.
    const { revocations, ...unsigned } = await service.ask(GetKeySet, {});
    const trusting = await Verifier.open(await service.ask(GetRootKeys, {}));
    if (!trusting.ok) throw new Error(trusting.reason);
    await trusting.verifier.learn(unsigned);
    expect([trusting.verifier.revoked, verifier.revoked.length]).toEqual([[], 2]);
    expect((await service.ask(GetKeySet, {})).revocations).toBe(revocations);
    expect(await verifier.lease(leaseNow, { now: service.now() })).toMatchObject({ ok: true });
    expect(await service.revoke(key?.kid ?? '')).toMatchObject({ state: 'revoked' });
    await expect(service.activate(key?.kid ?? '')).rejects.toMatchObject({ code: 'INVALID_TRANSITION', members: { from: 'revoked', allowed: [] } });
  });

  it('signs on with no key that was replaced or revoked in another process', async () => {
    const service = await start();
    const signer = await service.another();
    const [first, file] = [await signer('lease'), await signer('license-file')];
    const staged = await service.create('license-file');
    await service.activate(staged.kid);
    await service.revoke(first);
    await until(async () => (await signer('license-file')) === staged.kid);
    await until(async () => (await signer('lease')) !== first);
    expect(await signer('lease')).toBe(only(await service.keys(), 'lease', 'active')[0]?.kid);
    expect(file).not.toBe(staged.kid);
  });

  it('revokes the key that says so, too: the next one says it', async () => {
    const service = await start();
    expect(await service.ask(GetKeySet, {})).not.toHaveProperty('revocations');
    const [before] = only(await service.keys(), 'verdict', 'active');
    const verdict = await verdictFrom(service) ?? '';
    await service.revoke(before?.kid ?? '');
    const verifier = await service.verifier();
    expect(verifier.revoked).toEqual([before?.kid]);
    expect(await verifier.verdict(verdict, { now: service.now(), nonce: 'n' })).toEqual({ ok: false, reason: 'KEY_REVOKED' });
    expect(await verifier.verdict(await verdictFrom(service) ?? '', { now: service.now(), nonce: 'n' })).toMatchObject({ ok: true });
  });

  it('never signs with a key whose certificate is over, and takes the next one without being told', async () => {
    const service = await start();
    const old = await leaseFrom(service) ?? '';
    service.passDays(401);
    const lease = await leaseFrom(service) ?? '';
    const verifier = await service.verifier();
    expect(await verifier.lease(lease, { now: service.now() })).toMatchObject({ ok: true });
    expect(await verifier.lease(old, { now: addSeconds(service.now(), -400 * 86_400) })).toMatchObject({ ok: true });
    expect(only(await service.keys(), 'lease', 'active')).toHaveLength(1);
  });

  it('activates no key whose time is over: the one before would retire, and nothing sign', async () => {
    const service = await start();
    const staged = await service.create('lease');
    service.passDays(380);
    await service.activate((await service.create('lease')).kid);
    service.passDays(21);
    await expect(service.activate(staged.kid)).rejects.toMatchObject({ code: 'INVALID_TRANSITION', members: { from: 'staged', requested: 'activate', allowed: ['revoke'] } });
    expect(only(await service.keys(), 'lease', 'active')).toHaveLength(1);
  });

  it('lists its keys page by page, newest first', async () => {
    const service = await start();
    const { kid } = await service.create('webhook');
    const first = await service.ask(ListSigningKeys, { limit: 4 });
    expect(first.data[0]?.kid).toBe(kid);
    expect(first.page.total).toBe(6);
    const second = await service.ask(ListSigningKeys, { limit: 4, cursor: first.page.next ?? '' });
    expect([...first.data, ...second.data].map((key) => key.kid)).toEqual((await service.keys()).map((key) => key.kid));
    expect(second.page.next).toBeNull();
    await expect(service.ask(ListSigningKeys, { cursor: 'elsewhere' })).rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
  });

  it('makes one key, however many ask for one at once', async () => {
    const one = await start();
    await one.retire(only(await one.keys(), 'verdict', 'active')[0]?.kid ?? '');
    await Promise.all(Array.from({ length: 20 }, (_, n) => verdictFrom(one, `n${n}`)));
    expect(only(await one.keys(), 'verdict', 'active')).toHaveLength(1);
    expect((await one.keys()).filter(({ purpose }) => purpose === 'verdict')).toHaveLength(2);
  });
});

describe('Signing keys that cannot be opened', () => {
  const under = (phrase?: string): SigningConfig => ({ ...noConfig, passphrase: phrase });

  it('are no service: it does not start under another passphrase, nor without, and is what it was under the right one', async () => {
    const first = await start(folder(), under(passphrase));
    const keys = await first.keys();
    await first.close();
    for (const wrong of [`${passphrase}!`, undefined]) await expect(start(first.dataDir, under(wrong))).rejects.toThrow(/^KEYLEDGER_SIGNING_PASSPHRASE is missing or not the one/);
    const again = await start(first.dataDir, under(passphrase));
    expect(await again.keys()).toEqual(keys);
    expect(await verdictFrom(again)).not.toBeNull();
    expect(again.complaints).not.toHaveBeenCalled();
  });

  it('are no service either when they come under a passphrase that was not there at first: none of them lies under the master key alone any more', async () => {
    const first = await start();
    const keys = await first.keys();
    await first.close();
    const sealed = sealedIn(first.dataDir);
    const second = await start(first.dataDir, under(passphrase));
    expect(await second.keys()).toEqual(keys);
    expect(await verdictFrom(second)).not.toBeNull();
    expect(sealedIn(first.dataDir).map((text) => text.slice(0, 3))).toEqual(sealed.map(() => 'p1.'));
    const files = readdirSync(join(first.dataDir, 'production')).map((file) => readFileSync(join(first.dataDir, 'production', file)));
    expect(sealed.filter((text) => files.some((bytes) => bytes.includes(text)))).toEqual([]);
    await second.close();
    for (const wrong of [`${passphrase}!`, undefined]) await expect(start(first.dataDir, under(wrong))).rejects.toThrow('KEYLEDGER_SIGNING_PASSPHRASE');
    expect(await verdictFrom(await start(first.dataDir, under(passphrase)))).not.toBeNull();
  });

  it('are named, and replaced, when others can be', async () => {
    const first = await start();
    const [damaged] = only(await first.keys(), 'verdict', 'active');
    await first.close();
    damage(first.dataDir, damaged?.kid);
    const again = await start(first.dataDir);
    expect(again.complaints).toHaveBeenCalledWith(expect.objectContaining({ environment: 'production', purpose: 'verdict', kid: damaged?.kid }), expect.any(String));
    expect(await leaseFrom(again)).not.toBeNull();
    expect(await verdictFrom(again)).not.toBeNull();
    expect(only(await again.keys(), 'verdict', 'retired').map(({ kid }) => kid)).toEqual([damaged?.kid]);
  });

  it('keep nobody from signing when it is the root: later keys wait for their certificate', async () => {
    const first = await start();
    const { roots: [root] } = await first.ask(GetRootKeys, {});
    await first.close();
    damage(first.dataDir, root?.kid);
    const again = await start(first.dataDir, noConfig, 380); // when all of them are to be replaced
    expect(again.complaints).toHaveBeenCalledWith(expect.objectContaining({ purpose: 'root', kid: root?.kid }), expect.any(String));
    expect(await again.create('lease')).toMatchObject({ state: 'staged', certificate: null });
    expect(await leaseFrom(again)).not.toBeNull();
  });

  it('are never activated: not for an administrator, and not when a successor is looked for', async () => {
    const first = await start();
    const staged = await first.create('verdict');
    await first.close();
    damage(first.dataDir, staged.kid);
    const again = await start(first.dataDir);
    const [active] = only(await again.keys(), 'verdict', 'active');
    await expect(again.activate(staged.kid)).rejects.toMatchObject({ code: 'INVALID_TRANSITION', members: { from: 'staged', requested: 'activate', allowed: ['revoke'] } });
    expect(only(await again.keys(), 'verdict', 'active')).toEqual([active]);
    await again.revoke(active?.kid ?? '');
    expect(await verdictFrom(again)).not.toBeNull();
    expect(only(await again.keys(), 'verdict', 'staged').map(({ kid }) => kid)).toEqual([staged.kid]);
  });
});

describe('The offline root', () => {
  const rootExport = (where: string): SigningConfig => ({ ...noConfig, rootExport: { folder: where, passphrase } });

  it('is taken off the server, and certifies later keys from where it is kept', async () => {
    const [dataDir, safe] = [folder(), folder()];
    const online = await start(dataDir);
    const roots = await online.ask(GetRootKeys, {});
    const old = await fileFrom(online);
    expect(await online.has(roots.roots[0]?.kid ?? '')).toBe(true);
    await online.close();

    await (await start(dataDir, rootExport(safe))).close();
    expect(readdirSync(safe).sort()).toEqual(['production-root.json', 'staging-root.json']);
    const rootFile = readFileSync(join(safe, 'production-root.json'), 'utf8');

    const service = await start(dataDir);
    expect(await service.ask(GetRootKeys, {})).toEqual(roots);
    expect(await service.has(roots.roots[0]?.kid ?? '')).toBe(false);
    expect(await (await service.verifier()).licenseFile((await fileFrom(service)).content, { now: service.now() })).toMatchObject({ ok: true });
    const staged = await service.create('license-file');
    expect(staged).toMatchObject({ state: 'staged', certificate: null });
    await expect(service.activate(staged.kid)).rejects.toMatchObject({ code: 'SIGNING_KEY_NOT_CERTIFIED' });

    const certificate = await certify(rootFile, passphrase, staged);
    expect(await service.activate(staged.kid, certificate)).toMatchObject({ state: 'active', certificate });
    const verifier = await service.verifier();
    expect(await verifier.licenseFile((await fileFrom(service)).content, { now: service.now() })).toMatchObject({ ok: true, kid: staged.kid });
    expect(await verifier.licenseFile(old.content, { now: service.now() })).toMatchObject({ ok: true });
  });

  it('is gone from the server after the next start that can, when the one that took it offline died before it was destroyed', async () => {
    const [dataDir, safe] = [folder(), folder()];
    const rootsHere = async (service: Service) => Promise.all(['production', 'staging'].map(async (environment) => {
      const { roots: [root] } = await service.ask(GetRootKeys, {}, environment);
      return service.has(root?.kid ?? '', environment);
    }));
    const destroy = jest.spyOn(SealedKeys.prototype, 'destroy').mockResolvedValue();
    ends.push(() => destroy.mockRestore());
    const first = await start(dataDir, rootExport(safe));
    expect(await rootsHere(first)).toEqual([true, true]);
    await first.close();

    // What cannot be destroyed keeps nobody from signing.
    destroy.mockRejectedValue(new Error('the disk is full'));
    const second = await start(dataDir);
    expect(await rootsHere(second)).toEqual([true, true]);
    expect(await leaseFrom(second)).not.toBeNull();
    await second.close();

    destroy.mockRestore();
    const third = await start(dataDir);
    expect(await rootsHere(third)).toEqual([false, false]);
    const staged = await third.create('lease');
    const certificate = await certify(readFileSync(join(safe, 'production-root.json'), 'utf8'), passphrase, staged);
    expect(await third.activate(staged.kid, certificate)).toMatchObject({ state: 'active' });
  });

  it('is not written over another installation\'s, which is nowhere else any more', async () => {
    const safe = folder();
    await (await start(folder(), rootExport(safe))).close();
    const files = ['production-root.json', 'staging-root.json'].map((name) => join(safe, name));
    const before = files.map((file) => readFileSync(file, 'utf8'));
    const second = folder();
    await expect(start(second, rootExport(safe))).rejects.toThrow(/^KEYLEDGER_ROOT_EXPORT: .*production-root\.json .*another/);
    expect(files.map((file) => readFileSync(file, 'utf8'))).toEqual(before);
    const service = await start(second);
    expect(await service.has((await service.ask(GetRootKeys, {})).roots[0]?.kid ?? '')).toBe(true);
    expect(await service.create('lease')).toMatchObject({ certificate: expect.anything() });
  });

  it('is believed only when it says exactly what is asked', async () => {
    const [dataDir, safe] = [folder(), folder()];
    await (await start(dataDir, rootExport(safe))).close();
    const service = await start(dataDir);
    const [staged, other] = [await service.create('lease'), await service.create('lease')];
    const [production, staging] = ['production', 'staging'].map((name) => readFileSync(join(safe, `${name}-root.json`), 'utf8')) as [string, string];
    const wrong: readonly Certificate[] = [
      await certify(staging, passphrase, staged), await certify(production, passphrase, other), await certify(production, passphrase, { ...staged, purpose: 'verdict' }),
      await certify(production, passphrase, { ...staged, notAfter: addDays(staged.notAfter, 1) }), { ...(await certify(production, passphrase, staged)), signature: Buffer.alloc(64).toString('base64') },
      { ...(await certify(production, passphrase, staged)), kid: staged.kid },
    ];
    for (const certificate of wrong) await expect(service.activate(staged.kid, certificate)).rejects.toMatchObject({ code: 'CERTIFICATE_INVALID' });
    expect(await service.activate(staged.kid, await certify(production, passphrase, staged))).toMatchObject({ state: 'active' });
  });

  it('opens under its passphrase alone', async () => {
    const [dataDir, safe] = [folder(), folder()];
    await (await start(dataDir, rootExport(safe))).close();
    const service = await start(dataDir);
    const staged = await service.create('lease');
    await expect(certify(readFileSync(join(safe, 'production-root.json'), 'utf8'), `${passphrase}?`, staged)).rejects.toThrow();
    const moved = readFileSync(join(safe, 'production-root.json'), 'utf8').replace('"environment": "production"', '"environment": "staging"');
    await expect(certify(moved, passphrase, staged)).rejects.toThrow();
  });

  it('when it is offline, leaves a purpose without a key rather than signing without a certificate', async () => {
    const [dataDir, safe] = [folder(), folder()];
    await (await start(dataDir, rootExport(safe))).close();
    const service = await start(dataDir);
    const [key] = only(await service.keys(), 'lease', 'active');
    await service.revoke(key?.kid ?? '');
    await expect(leaseFrom(service)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(leaseFrom(service)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const [staged, ...more] = only(await service.keys(), 'lease', 'staged');
    expect(more).toEqual([]);
    await service.activate(staged?.kid ?? '', await certify(readFileSync(join(safe, 'production-root.json'), 'utf8'), passphrase, staged as SigningKeyView));
    expect(await leaseFrom(service)).not.toBeNull();
  });
});
