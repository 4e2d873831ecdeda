import { addDays, addSeconds, refuse, type Aggregate, type Instant, type JsonObject } from '@keyledger/kernel';

/** The purpose of a key. It signs nothing else. */
export const signingPurposes = ['license-file', 'lease', 'verdict', 'webhook', 'log-head'] as const;
export type SigningPurpose = (typeof signingPurposes)[number];

/** An Ed25519 public key (RFC 8037). Its `kid` is its thumbprint (RFC 7638), so no two keys share one. */
export type PublicJwk = { readonly kty: 'OKP'; readonly crv: 'Ed25519'; readonly x: string };

/** `staged`: made, signs nothing yet. `active`: signs. `retired`: signs no more; its signatures stay good. `revoked`: its signatures are no longer good. */
export type SigningKeyState = 'staged' | 'active' | 'retired' | 'revoked';
export interface SigningKey {
  readonly kid: string;
  readonly purpose: SigningPurpose;
  readonly state: SigningKeyState;
  readonly publicJwk: PublicJwk;
  /** The root to certify it, and for which time. */
  readonly rootKid: string;
  readonly notBefore: Instant;
  readonly notAfter: Instant;
  /** The certificate of the root; null until the root has signed. */
  readonly certificate: JsonObject | null;
  readonly createdAt: Instant;
  readonly activatedAt: Instant | null;
  readonly retiredAt: Instant | null;
  readonly revokedAt: Instant | null;
}

/** Certifies signing keys and does nothing else. Its public half is what verifiers pin. */
export interface RootKey {
  readonly kid: string;
  readonly publicJwk: PublicJwk;
  /** The private half is kept elsewhere, and certificates come from there. */
  readonly offline: boolean;
  readonly createdAt: Instant;
}

/** All signing keys of one environment are one stream, so that one place decides that a purpose has one active key. Oldest first. */
export interface SigningKeysState {
  readonly root: RootKey | null;
  readonly keys: ReadonlyMap<string, SigningKey>;
}

export type SigningKeysCommand =
  | { readonly type: 'CreateRoot'; readonly kid: string; readonly publicJwk: PublicJwk }
  | { readonly type: 'TakeRootOffline'; readonly kid: string }
  /** `unlessThere`: not if the purpose has an active key, or a staged one to follow it. */
  | { readonly type: 'Create'; readonly kid: string; readonly purpose: SigningPurpose; readonly publicJwk: PublicJwk; readonly unlessThere?: boolean }
  | { readonly type: 'Certify'; readonly kid: string; readonly certificate: JsonObject }
  | { readonly type: 'Activate' | 'Retire' | 'Revoke'; readonly kid: string };

export type SigningKeysEvent =
  | { readonly type: 'RootKeyCreated'; readonly kid: string; readonly publicJwk: PublicJwk }
  | { readonly type: 'RootKeyTakenOffline'; readonly kid: string }
  /** Records what the root is about to certify, before it does. */
  | { readonly type: 'SigningKeyCreated'; readonly kid: string; readonly purpose: SigningPurpose; readonly publicJwk: PublicJwk; readonly rootKid: string; readonly notBefore: Instant; readonly notAfter: Instant }
  | { readonly type: 'SigningKeyCertified'; readonly kid: string; readonly certificate: JsonObject }
  | { readonly type: 'SigningKeyActivated' | 'SigningKeyRetired' | 'SigningKeyRevoked'; readonly kid: string };

/** How long a key may sign. Its signatures may be good for longer. */
export const KEY_DAYS = 400;
/** Clocks of machines differ, and one machine may sign with a key that another has just made. */
const BACKDATED_SECONDS = 3600;

export const SigningKeys: Aggregate<SigningKeysState, SigningKeysCommand, SigningKeysEvent> = {
  category: 'signing',
  stateVersion: 1,
  shapes: {
    RootKeyCreated: { schema: 1 }, RootKeyTakenOffline: { schema: 1 }, SigningKeyCreated: { schema: 1 }, SigningKeyCertified: { schema: 1 },
    SigningKeyActivated: { schema: 1 }, SigningKeyRetired: { schema: 1 }, SigningKeyRevoked: { schema: 1 },
  },
  initial: () => ({ root: null, keys: new Map() }),

  decide(state, command, now) {
    switch (command.type) {
      case 'CreateRoot': return state.root ? [] : [{ type: 'RootKeyCreated', kid: command.kid, publicJwk: command.publicJwk }];
      case 'TakeRootOffline': return state.root?.kid !== command.kid || state.root.offline ? [] : [{ type: 'RootKeyTakenOffline', kid: command.kid }];
      case 'Create': return created(state, command, now);
      case 'Certify': return certified(keyOf(state, command.kid), command.certificate);
      case 'Activate': return activated(state, keyOf(state, command.kid));
      case 'Retire': return retired(state, keyOf(state, command.kid), now);
      case 'Revoke': return stepOf(keyOf(state, command.kid), 'revoked') ? [{ type: 'SigningKeyRevoked', kid: command.kid }] : [];
    }
  },

  evolve(state, event, { at }) {
    switch (event.type) {
      case 'RootKeyCreated': return { ...state, root: { kid: event.kid, publicJwk: event.publicJwk, offline: false, createdAt: at } };
      case 'RootKeyTakenOffline': return state.root ? { ...state, root: { ...state.root, offline: true } } : state;
      case 'SigningKeyCreated': {
        const { type: _, ...key } = event;
        return { ...state, keys: new Map(state.keys).set(key.kid, { ...key, state: 'staged', certificate: null, createdAt: at, activatedAt: null, retiredAt: null, revokedAt: null }) };
      }
      case 'SigningKeyCertified': return changed(state, event.kid, { certificate: event.certificate });
      case 'SigningKeyActivated': return changed(state, event.kid, { state: 'active', activatedAt: at });
      case 'SigningKeyRetired': return changed(state, event.kid, { state: 'retired', retiredAt: at });
      case 'SigningKeyRevoked': return changed(state, event.kid, { state: 'revoked', revokedAt: at });
    }
  },
};

/** Refuses with SIGNING_KEY_NOT_FOUND. */
export function keyOf({ keys }: SigningKeysState, kid: string): SigningKey {
  const key = keys.get(kid);
  if (!key) throw refuse('SIGNING_KEY_NOT_FOUND');
  return key;
}

/** The key that signs for a purpose. Undefined when none does: it may have been retired or revoked without a successor, or its certificate is over. */
export const signingKeyFor = ({ keys }: SigningKeysState, purpose: SigningPurpose, now: Instant): SigningKey | undefined =>
  [...keys.values()].find((key) => key.purpose === purpose && key.state === 'active' && key.notBefore <= now && now < key.notAfter);

/** The key that is to sign next: the newest that can, else the newest that waits for its certificate. */
export function successorFor({ keys }: SigningKeysState, purpose: SigningPurpose, now: Instant): SigningKey | undefined {
  const staged = [...keys.values()].filter((key) => key.purpose === purpose && key.state === 'staged' && key.notBefore <= now && now < key.notAfter);
  return staged.findLast(({ certificate }) => certificate) ?? staged.at(-1);
}

/** The keys verifiers may learn: their signatures are good. */
export const trustedKeys = ({ keys }: SigningKeysState): readonly SigningKey[] => [...keys.values()].filter(({ state }) => state === 'active' || state === 'retired');
export const revokedKeys = ({ keys }: SigningKeysState): readonly SigningKey[] => [...keys.values()].filter(({ state }) => state === 'revoked');

function created(state: SigningKeysState, { kid, purpose, publicJwk, unlessThere }: SigningKeysCommand & { type: 'Create' }, now: Instant): readonly SigningKeysEvent[] {
  if (!state.root) throw refuse('UNAVAILABLE', 'There is no root key to certify signing keys');
  if (state.keys.has(kid) || (unlessThere && (signingKeyFor(state, purpose, now) ?? successorFor(state, purpose, now)))) return [];
  return [{ type: 'SigningKeyCreated', kid, purpose, publicJwk, rootKid: state.root.kid, notBefore: addSeconds(now, -BACKDATED_SECONDS), notAfter: addDays(now, KEY_DAYS) }];
}

/** Certified for activation, so a revoked key is refused as its activation would be. */
const certified = (key: SigningKey, certificate: JsonObject): readonly SigningKeysEvent[] =>
  (key.certificate || !stepOf(key, 'active') ? [] : [{ type: 'SigningKeyCertified', kid: key.kid, certificate }]);

/** A purpose has one active key: the one before retires in the same moment, and nothing it signed has to be signed again. */
function activated({ keys }: SigningKeysState, key: SigningKey): readonly SigningKeysEvent[] {
  if (!stepOf(key, 'active')) return [];
  if (!key.certificate) throw refuse('SIGNING_KEY_NOT_CERTIFIED', 'The offline root has to certify the key first', { kid: key.kid });
  const before = [...keys.values()].filter(({ purpose, state }) => purpose === key.purpose && state === 'active');
  return [...before.map(({ kid }) => ({ type: 'SigningKeyRetired', kid }) as const), { type: 'SigningKeyActivated', kid: key.kid }];
}

/** The last key that signs for a purpose stays, unless another can follow: one with a certificate, or, if the root is here, one that the root certifies. */
function retired(state: SigningKeysState, key: SigningKey, now: Instant): readonly SigningKeysEvent[] {
  if (!stepOf(key, 'retired')) return [];
  const { kid, purpose } = key;
  if (signingKeyFor(state, purpose, now)?.kid === kid && state.root?.offline && !successorFor(state, purpose, now)?.certificate) {
    throw refuse('INVALID_TRANSITION', `This is the only key that signs for ${purpose}, and the root is offline: have a new key certified and activate it, which retires this one`,
      { from: key.state, requested: 'retire', allowed: ['revoke'] });
  }
  return [{ type: 'SigningKeyRetired', kid }];
}

/** The next states of each state, with the action that leads there. */
const steps: Readonly<Record<SigningKeyState, Partial<Record<SigningKeyState, string>>>> = {
  staged: { active: 'activate', revoked: 'revoke' },
  active: { retired: 'retire', revoked: 'revoke' },
  retired: { revoked: 'revoke' },
  revoked: {},
};

/** False if the key is in that state already; refuses an impossible step with INVALID_TRANSITION. */
function stepOf({ state }: SigningKey, next: 'active' | 'retired' | 'revoked'): boolean {
  if (state === next) return false;
  if (steps[state][next]) return true;
  const requested = { active: 'activate', retired: 'retire', revoked: 'revoke' }[next];
  throw refuse('INVALID_TRANSITION', `A ${state} key cannot ${requested}`, { from: state, requested, allowed: Object.values(steps[state]) });
}

function changed(state: SigningKeysState, kid: string, change: Partial<SigningKey>): SigningKeysState {
  const key = state.keys.get(kid);
  return key ? { ...state, keys: new Map(state.keys).set(kid, { ...key, ...change }) } : state;
}

export const signingKeyView = (key: SigningKey) => {
  const { kid, purpose, state, publicJwk, certificate, notBefore, notAfter, createdAt, activatedAt, retiredAt, revokedAt } = key;
  return { kid, purpose, alg: 'Ed25519' as const, state, publicJwk, notBefore, notAfter, certificate, createdAt, activatedAt, retiredAt, revokedAt };
};
