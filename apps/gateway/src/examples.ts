/** The three calls that a customer's software makes, as the documentation shows them. */

const licenseKey = '7XXC90C-V60HD1W-Z53PM9S-T96AD8S';
const license = {
  id: 'lic_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001', status: 'active', productId: 'prd_01937c2e-0b5a-7c1d-8a53-2f1d9c7be002', planId: 'pln_01937c2e-0b5a-7c1d-8a53-2f1d9c7be003',
  expiresAt: '2027-12-01T00:00:00.000Z', effectiveAt: null, activationLimit: 3, activationCount: 1,
  features: { export: true, projects: 10 }, featureFlags: {}, quotas: [], metadata: {},
};
const instanceId = 'act_01937c2e-0b5a-7c1d-8a53-2f1d9c7be004';
const now = '2026-12-01T09:30:00.000Z';

export const activate = {
  body: { licenseKey, instanceName: "Ada's laptop", fingerprint: 'b1946ac92492d2347c6235b4d2611184' },
  answer: {
    activated: true,
    instance: { id: instanceId, name: "Ada's laptop", fingerprint: 'b1946ac92492d2347c6235b4d2611184', createdAt: now, lastSeenAt: now, metadata: {} },
    license,
  },
};

export const validate = {
  body: { licenseKey, instanceId },
  answer: {
    valid: true, code: 'VALID', detail: 'License valid', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null,
    decisionId: `${license.id}.2.miz0w3c0.q1Zc4JmS7bXw2n5Vd8LkTg`, seq: 2, checkedAt: now, license,
    instance: { id: instanceId, name: "Ada's laptop", lastSeenAt: now },
  },
};

export const deactivate = { body: { licenseKey, instanceId }, answer: { deactivated: true, activationCount: 0, activationLimit: 3 } };
