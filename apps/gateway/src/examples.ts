/** Examples for the documentation: the calls that a customer's software makes. */

const licenseKey = '7XXC90C-V60HD1W-Z53PM9S-T96AD8S';
const license = {
  id: 'lic_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001', status: 'active', productId: 'prd_01937c2e-0b5a-7c1d-8a53-2f1d9c7be002', planId: 'pln_01937c2e-0b5a-7c1d-8a53-2f1d9c7be003',
  expiresAt: '2027-12-01T00:00:00.000Z', effectiveAt: null, activationLimit: 3, activationCount: 1,
  features: { export: true, projects: 10 }, featureFlags: {}, quotas: [], metadata: {},
};
const instanceId = 'act_01937c2e-0b5a-7c1d-8a53-2f1d9c7be004';
const now = '2026-12-01T09:30:00.000Z';
const kid = 'b3WkYzCjdlYq7RGhNkjqGxXPx0oG1Fq5rF3sM4H0yTk';
const rootKid = 'Jv0mPq2f0mUo1cZ6Wn8H9rXk5sT7yB3dLeQa4gKiRzE';
const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const token = (typ: string): string => `${encoded({ alg: 'Ed25519', typ, kid })}.${encoded({ iss: 'keyledger', env: 'production' })}.${'0'.repeat(86)}`;

export const activate = {
  body: { licenseKey, instanceName: "Ada's laptop", fingerprint: 'b1946ac92492d2347c6235b4d2611184' },
  answer: {
    activated: true,
    instance: { id: instanceId, name: "Ada's laptop", fingerprint: 'b1946ac92492d2347c6235b4d2611184', createdAt: now, lastSeenAt: now, metadata: {} },
    license, token: token('kl-lease+jwt'),
  },
};

export const validate = {
  body: { licenseKey, instanceId, nonce: 'q1Zc4JmS7bXw2n5V' },
  answer: {
    valid: true, code: 'VALID', detail: 'License valid', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null,
    decisionId: `${license.id}.2.miz0w3c0.q1Zc4JmS7bXw2n5Vd8LkTg`, seq: 2, checkedAt: now, license,
    instance: { id: instanceId, name: "Ada's laptop", lastSeenAt: now }, token: token('kl-verdict+jwt'),
  },
};

export const usage = {
  body: {
    licenseKey, instanceId,
    records: [{ id: '3f6c1a52-0001', meter: 'max_dp_cores', value: 24, at: '2026-12-01T09:15:00.000Z' }, { id: '3f6c1a52-0002', meter: 'max_dp_cores', value: 28, at: now }],
  },
  answer: { accepted: 2, duplicates: 0, quotas: [{ meter: 'max_dp_cores', limit: 32, state: 'normal', lastPeak: 30, graceEndsAt: null }] },
};

export const deactivate = { body: { licenseKey, instanceId }, answer: { deactivated: true, activationCount: 0, activationLimit: 3 } };

const publicJwk = { kty: 'OKP', crv: 'Ed25519', x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo' };
const key = { ...publicJwk, kid, alg: 'Ed25519', use: 'sig' };
const statement = { kid, purpose: 'license-file', environment: 'production', publicJwk, notBefore: '2026-12-01T08:30:00.000Z', notAfter: '2028-01-05T09:30:00.000Z' };
const certificate = {
  payloadType: 'application/vnd.keyledger.key-certificate.v1+json', environment: 'production', kid: rootKid,
  payload: Buffer.from(JSON.stringify(statement)).toString('base64'), signature: Buffer.alloc(64).toString('base64'),
};
const { environment: _, ...stated } = statement;

export const createSigningKey = {
  body: { purpose: 'license-file' },
  answer: { ...stated, alg: 'Ed25519', state: 'staged', certificate, createdAt: now, activatedAt: null, retiredAt: null, revokedAt: null },
};

export const keySet = { answer: { keys: [{ ...key, kl_cert: certificate }], revoked: [] } };
export const rootKeys = { answer: { environment: 'production', roots: [{ ...key, kid: rootKid }] } };

export const licenseFile = {
  answer: {
    filename: `${license.id}.license`, content: '-----BEGIN KEYLEDGER LICENSE-----\neyJwYXlsb2FkVHlwZSI6ImFwcGxpY2F0aW9uL3ZuZC5rZXlsZWRnZXIubGljZW5z\n…\n-----END KEYLEDGER LICENSE-----\n',
    issuedAt: now, expiresAt: license.expiresAt,
  },
};

export const offlineFile = {
  body: { activationId: instanceId },
  answer: {
    filename: `${license.id}.offline.json`, content: '{\n  "payloadType": "application/vnd.keyledger.offline-validation.v1+json",\n  "environment": "production",\n  …\n}\n',
    issuedAt: now, expiresAt: '2026-12-02T09:30:00.000Z',
  },
};

export const activateAppliance = {
  body: { fingerprint: 'b1946ac92492d2347c6235b4d2611184', hostname: 'appliance-7', version: '4.2.0' },
  answer: { activationId: instanceId, token: token('kl-lease+jwt'), deployment: { state: 'active' }, offlineGraceSeconds: 1_209_600, nextInSeconds: 3600, lastSeq: null },
};

const refresh = { id: 'dir_01937c2e-0b5a-7c1d-8a53-2f1d9c7be005', kind: 'message', payload: { text: 'Maintenance on Sunday' }, issuedAt: now };
export const heartbeat = {
  body: { activationId: instanceId, fingerprint: 'b1946ac92492d2347c6235b4d2611184', seq: 17, version: '4.2.0', acks: [], nonce: '9f2c41d07ab3' },
  answer: { state: 'active', enforcement: 'FULL', token: token('kl-lease+jwt'), directives: [refresh], nextInSeconds: 3600, serverTime: now },
};

export const directive = { body: { kind: 'message', payload: { text: 'Maintenance on Sunday' } }, answer: refresh };

export const createWebhookEndpoint = {
  body: { url: 'https://example.com/keyledger', events: ['license.*', 'quota.exceeded'], description: 'CRM' },
  answer: {
    id: 'whk_01937c2e-0b5a-7c1d-8a53-2f1d9c7be005', url: 'https://example.com/keyledger', events: ['license.*', 'quota.exceeded'], description: 'CRM', enabled: true, disabledBy: null,
    oldSecretValidUntil: null, createdAt: now, revision: 0, secret: `whsec_${Buffer.alloc(32).toString('base64')}`,
  },
};
