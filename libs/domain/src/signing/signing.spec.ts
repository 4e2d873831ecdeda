import { describe, expect, it } from '@jest/globals';
import { addDays, type JsonObject } from '@keyledger/kernel';
import { at, scenarios } from '@keyledger/testing';
import fc from 'fast-check';
import { Signatures } from './signatures.ts';
import { KEY_DAYS, revokedKeys, SigningKeys, signingKeyFor, signingKeyView, signingPurposes, successorFor, trustedKeys, type SigningKeysCommand, type SigningKeyState, type SigningPurpose } from './signingKeys.ts';

const now = '2026-11-21T12:00:00.000Z';
const later = '2026-11-22T12:00:00.000Z';
const { given, story, stateOf } = scenarios(SigningKeys, now);

const publicJwk = { kty: 'OKP', crv: 'Ed25519', x: 'x' } as const;
const certificate: JsonObject = { payload: 'p', signature: 's' };
const root: SigningKeysCommand = { type: 'CreateRoot', kid: 'root', publicJwk };
const create = (kid: string, purpose: SigningPurpose = 'lease', more = {}): SigningKeysCommand => ({ type: 'Create', kid, purpose, publicJwk, ...more });
const certify = (kid: string): SigningKeysCommand => ({ type: 'Certify', kid, certificate });
const step = (type: 'Activate' | 'Retire' | 'Revoke') => (kid: string): SigningKeysCommand => ({ type, kid });
const [activate, retire, revoke] = [step('Activate'), step('Retire'), step('Revoke')];

const rooted = story(root);
const staged = story(rooted, create('k1'), certify('k1'));
const active = story(staged, activate('k1'));
const stories = { staged, active, retired: story(active, retire('k1')), revoked: story(active, revoke('k1')) };

describe('The root', () => {
  it('is made once', () => {
    given().when(root).thenEvents({ type: 'RootKeyCreated', kid: 'root' });
    given(rooted).when({ ...root, kid: 'another' } as SigningKeysCommand).thenNothing();
  });

  it('is taken offline once', () => {
    const offline: SigningKeysCommand = { type: 'TakeRootOffline', kid: 'root' };
    given(rooted).when(offline).thenEvents({ type: 'RootKeyTakenOffline' }, ({ root: key }) => expect(key?.offline).toBe(true));
    given(story(rooted, offline)).when(offline).thenNothing();
    given(rooted).when({ ...offline, kid: 'another' } as SigningKeysCommand).thenNothing();
    given().when(offline).thenNothing();
  });
});

describe('A signing key', () => {
  it('needs a root to certify it, and says what for and how long before the root is asked', () => {
    given().when(create('k1')).thenRefused('UNAVAILABLE');
    given(rooted).when(create('k1')).thenEvents({ type: 'SigningKeyCreated', kid: 'k1', purpose: 'lease', rootKid: 'root', notBefore: '2026-11-21T11:00:00.000Z', notAfter: addDays(now, KEY_DAYS) });
    given(staged).when(create('k1')).thenNothing();
  });

  it('is not made when there is one already, if that is the wish', () => {
    given(rooted).when(create('k1', 'lease', { unlessThere: true })).thenEvents({ type: 'SigningKeyCreated' });
    for (const there of [staged, active]) given(there).when(create('k2', 'lease', { unlessThere: true })).thenNothing();
    for (const gone of [stories.retired, stories.revoked]) given(gone).when(create('k2', 'lease', { unlessThere: true })).thenEvents({ type: 'SigningKeyCreated' });
    given(active).when(create('k2', 'verdict', { unlessThere: true })).thenEvents({ type: 'SigningKeyCreated', purpose: 'verdict' });
    given(active).at(addDays(now, KEY_DAYS)).when(create('k2', 'lease', { unlessThere: true })).thenEvents({ type: 'SigningKeyCreated' });
  });

  it('is certified once, and signs nothing before', () => {
    const bare = story(rooted, create('k1'));
    given(bare).when(activate('k1')).thenRefused('SIGNING_KEY_NOT_CERTIFIED', { kid: 'k1' });
    given(bare).when(certify('k1')).thenEvents({ type: 'SigningKeyCertified', kid: 'k1', certificate });
    given(staged).when(certify('k1')).thenNothing();
    given(story(bare, revoke('k1'))).when(certify('k1')).thenRefused('INVALID_TRANSITION', { from: 'revoked', requested: 'activate' });
    given(staged).when(activate('k1')).thenEvents({ type: 'SigningKeyActivated', kid: 'k1' });
  });

  it('retires the one before it in the same moment, and only that of its purpose', () => {
    const two = story(active, create('k2'), certify('k2'), create('v1', 'verdict'), certify('v1'), activate('v1'));
    given(two).when(activate('k2')).thenEvents({ type: 'SigningKeyRetired', kid: 'k1' }, { type: 'SigningKeyActivated', kid: 'k2' }, (state) => {
      expect(signingKeyFor(state, 'lease', now)?.kid).toBe('k2');
      expect(signingKeyFor(state, 'verdict', now)?.kid).toBe('v1');
      expect(trustedKeys(state).map(({ kid }) => kid)).toEqual(['k1', 'k2', 'v1']);
    });
  });

  it('stays while nothing can follow it: the root is offline, and no other key has its certificate; a revocation waits for nothing', () => {
    const alone = story(active, { type: 'TakeRootOffline', kid: 'root' } as SigningKeysCommand);
    given(alone).when(retire('k1')).thenRefused('INVALID_TRANSITION', { from: 'active', requested: 'retire', allowed: ['revoke'] });
    given(alone).when(revoke('k1')).thenEvents({ type: 'SigningKeyRevoked', kid: 'k1' });
    given(alone).at(addDays(now, KEY_DAYS)).when(retire('k1')).thenEvents({ type: 'SigningKeyRetired', kid: 'k1' });
    const waiting = story(alone, create('k2'));
    for (const without of [waiting, story(alone, create('v1', 'verdict'), certify('v1'))]) given(without).when(retire('k1')).thenRefused('INVALID_TRANSITION');
    const followed = story(waiting, certify('k2'), create('k3'));
    expect(successorFor(stateOf(followed), 'lease', now)?.kid).toBe('k2');
    given(followed).when(retire('k1')).thenEvents({ type: 'SigningKeyRetired', kid: 'k1' });
    given(story(followed, activate('k2'))).when(retire('k1')).thenNothing();
  });

  const outcomes: Record<SigningKeyState, Record<'activate' | 'retire' | 'revoke', 'step' | 'nothing' | 'refused'>> = {
    staged: { activate: 'step', retire: 'refused', revoke: 'step' },
    active: { activate: 'nothing', retire: 'step', revoke: 'step' },
    retired: { activate: 'refused', retire: 'nothing', revoke: 'step' },
    revoked: { activate: 'refused', retire: 'refused', revoke: 'nothing' },
  };
  const cells = Object.entries(outcomes).flatMap(([state, row]) => Object.entries(row).map(([asked, outcome]) => ({ state: state as SigningKeyState, asked: asked as keyof typeof row, outcome })));
  it.each(cells)('that is $state: $asked → $outcome', ({ state, asked, outcome }) => {
    const when = given(stories[state]).when({ activate, retire, revoke }[asked]('k1'));
    if (outcome === 'nothing') return when.thenNothing();
    if (outcome === 'refused') return when.thenRefused('INVALID_TRANSITION', { from: state, requested: asked, allowed: Object.entries(outcomes[state]).filter(([, found]) => found === 'step').map(([name]) => name) });
    const [type, next] = ({ activate: ['SigningKeyActivated', 'active'], retire: ['SigningKeyRetired', 'retired'], revoke: ['SigningKeyRevoked', 'revoked'] } as const)[asked];
    return when.thenEvents({ type, kid: 'k1' }, ({ keys }) => expect(keys.get('k1')?.state).toBe(next));
  });

  it.each([activate, retire, revoke, certify])('that is not there is not found', (command) => given(active).when(command('k9')).thenRefused('SIGNING_KEY_NOT_FOUND'));

  it('signs from the hour before it was made until its certificate ends', () => {
    const state = stateOf(active);
    expect(signingKeyFor(state, 'lease', '2026-11-21T11:00:00.000Z')?.kid).toBe('k1');
    expect(signingKeyFor(state, 'lease', '2026-11-21T10:59:59.999Z')).toBeUndefined();
    expect(signingKeyFor(state, 'lease', '2027-12-26T11:59:59.999Z')?.kid).toBe('k1');
    expect(signingKeyFor(state, 'lease', '2027-12-26T12:00:00.000Z')).toBeUndefined();
    expect(signingKeyFor(state, 'verdict', now)).toBeUndefined();
    expect(successorFor(state, 'lease', now)).toBeUndefined();
    expect(successorFor(stateOf(story(active, create('k2'), create('k3'), create('k4'))), 'lease', now)?.kid).toBe('k4');
  });

  it('is to follow in the time of its certificate only', () => {
    const following = ['2026-11-21T10:59:59.999Z', '2026-11-21T11:00:00.000Z', '2027-12-26T11:59:59.999Z', '2027-12-26T12:00:00.000Z'].map((instant) => successorFor(stateOf(staged), 'lease', instant)?.kid);
    expect(following).toEqual([undefined, 'k1', 'k1', undefined]);
  });

  it('is among the revoked ones once it is, and not before', () =>
    expect(Object.values(stories).map((history) => revokedKeys(stateOf(history)).map(({ kid }) => kid))).toEqual([[], [], [], ['k1']]));

  it('shows when what has happened to it', () => {
    const key = stateOf(story(active, at(later, revoke('k1')))).keys.get('k1');
    expect(key && signingKeyView(key)).toEqual({
      kid: 'k1', purpose: 'lease', alg: 'Ed25519', state: 'revoked', publicJwk, notBefore: '2026-11-21T11:00:00.000Z', notAfter: addDays(now, KEY_DAYS), certificate,
      createdAt: now, activatedAt: now, retiredAt: null, revokedAt: later,
    });
  });

  it('never signs beside another one of its purpose, never comes back, whatever is asked in whatever order (property)', () => {
    const kid = fc.constantFrom('k1', 'k2', 'k3', 'k4');
    const purposeOf = (name: string) => (name === 'k4' ? 'verdict' : 'lease');
    const command = fc.oneof(kid.map((name) => create(name, purposeOf(name))), kid.map((name) => create(name, purposeOf(name), { unlessThere: true })), kid.map(certify), kid.map(activate), kid.map(retire), kid.map(revoke));
    fc.assert(fc.property(fc.array(command, { maxLength: 40 }), (commands) => {
      let state = stateOf(rooted);
      for (const one of commands) {
        const before = state;
        try {
          for (const event of SigningKeys.decide(state, one, now)) state = SigningKeys.evolve(state, event, { at: now, actor: { type: 'system', id: 'keyledger' } });
        } catch {
          continue; // refused
        }
        for (const purpose of signingPurposes) expect([...state.keys.values()].filter((key) => key.purpose === purpose && key.state === 'active').length).toBeLessThanOrEqual(1);
        for (const [name, key] of before.keys) {
          const order: readonly SigningKeyState[] = ['staged', 'active', 'retired', 'revoked'];
          expect(order.indexOf(state.keys.get(name)?.state ?? 'staged')).toBeGreaterThanOrEqual(order.indexOf(key.state));
        }
        for (const key of trustedKeys(state)) expect(key.certificate).not.toBeNull();
      }
      expect(revokedKeys(state).length + trustedKeys(state).length).toBeLessThanOrEqual(state.keys.size);
    }), { numRuns: 500 });
  });
});

describe('What is signed', () => {
  it('is recorded each time', () => {
    const { given: givenSignatures, story: told } = scenarios(Signatures, now);
    const lease = { statement: 'lease', licenseId: 'lic_1', kid: 'k1', activationId: 'act_1', seq: 3, digest: 'd', expiresAt: later } as const;
    const record = { type: 'Record', signatures: [lease, { ...lease, activationId: 'act_2' }] } as const;
    givenSignatures().when(record).thenEvents({ ...record, type: 'SignaturesRecorded' }, (state) => expect(state).toEqual({ count: 2, last: now }));
    givenSignatures(told(record)).when(record).thenEvents({ type: 'SignaturesRecorded' }, (state) => expect(state).toEqual({ count: 4, last: now }));
    givenSignatures().when({ type: 'Record', signatures: [] }).thenNothing();
  });
});
