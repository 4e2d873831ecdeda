import { describe, expect, it } from '@jest/globals';
import { webhookBodies } from '@keyledger/contracts';
import { License, SigningKeys, webhookTypes, type LicenseCommand, type LicenseEvent, type SigningKeysEvent, type SigningKeysState } from '@keyledger/domain';
import { addDays } from '@keyledger/kernel';
import {
  activate, assign, at, deactivate, direct, erase, exceedQuota, idOf, inactivate, issue, laptop, loseHeartbeat, missHeartbeat, reactivate, rebind, recoverHeartbeat, regenerateKey, renew, restoreQuota, revoke, scenarios, suspectAbuse, suspend, sweep, unsuspend, type Moment,
} from '@keyledger/testing';
import { Ajv2020 } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';
import { factsOf, ofDenials, ofJobs, ofLicenses, ofSigningKeys, type Announced, type Announcement } from './announcements.ts';

const now = '2026-11-21T12:00:00.000Z';
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats.default(ajv);
type Life = readonly (LicenseCommand | Moment<LicenseCommand>)[];
const { stateOf, story } = scenarios(License, now);

/** All that becomes public of a license's life, each held against its published shape. */
function told(...commands: Life): Announcement[] {
  const history = story(...commands);
  const facts = factsOf(stateOf(history)) ?? (() => { throw new Error('There is no license'); })();
  return history.happened.flatMap(({ event }) => (ofLicenses as Readonly<Record<string, Announced<LicenseEvent, typeof facts> | undefined>>)[event.type]?.tell(event, facts) ?? []).map(checked);
}
function checked(announcement: Announcement): Announcement {
  const { type, data } = announcement;
  const fits = ajv.compile(webhookBodies[type]);
  const body = JSON.parse(JSON.stringify({ type, timestamp: now, data: { environment: 'production', ...data } })) as unknown;
  expect([type, fits(body), fits.errors]).toEqual([type, true, null]);
  return announcement;
}

const year = { terms: { activationLimit: 3, expiresAt: addDays(now, 365), quotas: [{ meter: 'max_dp_cores', limit: 8 }], overageGraceDays: 7 } };
const lives: readonly Life[] = [
  [issue(year), assign(), activate(laptop, { deploymentId: 'dep-ada' }), rebind(), deactivate(), revoke()],
  [issue(year), assign(), activate(), suspend({ cause: 'payment', reason: 'unpaid' }), unsuspend({ cause: 'payment' }), inactivate(), reactivate(), regenerateKey(), renew(addDays(now, 500)), at(addDays(now, 470), sweep()), at(addDays(now, 600), sweep())],
  [issue(year), assign(), activate(), missHeartbeat(), loseHeartbeat(), recoverHeartbeat(), direct('lock'), direct('unlock', 2), direct('refresh', 3)],
  [issue(year), assign(), exceedQuota(9, 8), restoreQuota(7), exceedQuota(10, 8), at(addDays(now, 8), sweep()), erase()],
  [issue(year), assign(), activate(), suspectAbuse()],
];

describe('What is told of a license', () => {
  const all = lives.flatMap((life) => told(...life));

  it('has the shape that is published, and covers every type', () => {
    const elsewhere = ['activation.limit-exceeded', 'signing-key.rotated', 'job.finished'];
    expect([...new Set(all.map(({ type }) => type))].sort()).toEqual(webhookTypes.filter((type) => !elsewhere.includes(type)).sort());
  });

  it('holds nothing that is sealed', () => {
    const text = JSON.stringify(all);
    for (const secret of ['KEY0001-1111111', 'KEY0002-1111111', '2222222', 'fp-laptop', 'fp-new', 'laptop', 'dep-ada', 'hash-1']) expect([secret, text.includes(secret)]).toEqual([secret, false]);
  });

  it('is said once of each step', () => {
    expect(told(issue(year), assign(), activate(), missHeartbeat(undefined, now), loseHeartbeat(undefined, now)).map(({ type }) => type)).toEqual(['license.issued', 'license.assigned', 'license.activated', 'deployment.late', 'deployment.locked']);
    expect(told(issue(year), assign(), direct('refresh')).map(({ type }) => type)).toEqual(['license.issued', 'license.assigned']);
  });

  it('names no type that was not announced', () => {
    for (const [type, how] of Object.entries(ofLicenses)) expect([type, how.types.every((one) => webhookTypes.includes(one))]).toEqual([type, true]);
  });
});

it('A signing key that is put to use is told by its purpose, and never its private half', () => {
  const state: SigningKeysState = [
    { type: 'RootKeyCreated', kid: 'root', publicJwk: { kty: 'OKP', crv: 'Ed25519', x: 'r' } },
    { type: 'SigningKeyCreated', kid: 'k1', purpose: 'lease', publicJwk: { kty: 'OKP', crv: 'Ed25519', x: '1' }, rootKid: 'root', notBefore: now, notAfter: addDays(now, 400) },
  ].reduce((before, event) => SigningKeys.evolve(before, event as SigningKeysEvent, { at: now, actor: { type: 'system', id: 'keyledger' } }), SigningKeys.initial());
  const say = (kid: string) => ofSigningKeys.SigningKeyActivated?.tell({ type: 'SigningKeyActivated', kid }, state).map(checked);
  expect(say('k1')).toEqual([{ type: 'signing-key.rotated', data: { kid: 'k1', purpose: 'lease' } }]);
  expect(say('k2')).toEqual([]);
});

it('A job is told when it is over', () => {
  const said = ofJobs.JobFinished?.tell({ type: 'JobFinished', outcome: 'failed', kind: 'import', total: 9, done: 3, failed: 1, detail: 'the catalog did not answer' }, idOf('job')).map(checked);
  expect(said).toEqual([{ type: 'job.finished', data: { jobId: idOf('job'), kind: 'import', state: 'failed', total: 9, done: 3, failed: 1, detail: 'the catalog did not answer' } }]);
});

it('Refused seats are told with how many were missing', () => {
  const facts = { licenseId: idOf('lic'), keyPrefix: 'KEY00011', productId: null, planId: null, customerId: null, orderId: null };
  const event = { type: 'ActivationsDenied', denials: 7, machines: 2, limit: 3, used: 3, from: now, until: now } as const;
  expect(ofDenials.ActivationsDenied?.tell(event, facts).map(checked)).toEqual([{ type: 'activation.limit-exceeded', data: { ...facts, denials: 7, machines: 2, limit: 3, used: 3, from: now, until: now } }]);
});
