import {
  keyOf, Signatures, SigningKeys, signingKeyFor, signingPurposes, successorFor, type SigningKey, type SigningKeysCommand, type SigningKeysState, type SigningPurpose,
} from '@keyledger/domain';
import { Aggregates, EventStores, type Subscription } from '@keyledger/event-store';
import { addDays, context, refuse, runIn, systemContext, type Clock, type JsonObject } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Verifier, type Certificate, type KeyStatement } from '@keyledger/license-file';
import type { Log } from '@keyledger/observability';
import { Injectable } from '@nestjs/common';
import type { KeyStore } from './key-store.ts';

/** The streams that only signing writes. */
@Injectable()
export class SigningStreams {
  readonly keys;
  readonly signatures;

  constructor(readonly events: EventStores, keyrings: Keyrings) {
    this.keys = new Aggregates(SigningKeys, events, keyrings);
    this.signatures = new Aggregates(Signatures, events, keyrings, { maxFolds: 1_000 });
  }
}

export interface TriedKey {
  readonly environment: string;
  readonly purpose: string;
  readonly kid: string;
  readonly setting: string | undefined;
  readonly opens: boolean;
}

/** How long before its certificate ends a key is replaced automatically, as long as the root is here. */
const renewDaysBefore = 30;

/** The keys of the message's environment, and which of them sign. */
export class Keys {
  /** By environment and purpose, until something happens to a key of the environment. */
  readonly #signers = new Map<string, SigningKey>();
  #happened = 0;
  readonly #providing = new Map<string, Promise<void>>();
  readonly #subscriptions: Subscription[] = [];

  constructor(private readonly streams: SigningStreams, private readonly store: KeyStore, private readonly clock: Clock, private readonly log: Log) {}

  /** Follows changes of keys, made here or in another process, in every environment. */
  async listen(): Promise<void> {
    for (const [environment, store] of this.streams.events.entries()) {
      const stream = `${SigningKeys.category}-${environment}`;
      this.#subscriptions.push(store.subscribe(await store.head(), (events) => {
        if (events.some((event) => event.stream === stream)) this.#forget();
      }, [{ category: SigningKeys.category, bare: true }]));
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#subscriptions.map((subscription) => subscription.close()));
  }

  load(): Promise<SigningKeysState> {
    return this.streams.keys.load(context().environment, (state) => state);
  }

  run(command: SigningKeysCommand): Promise<SigningKeysState> {
    this.#forget();
    return this.streams.keys.run(context().environment, command, (state) => state).finally(() => this.#forget());
  }

  /** The certified key that signs for the purpose, created if there is none (any more); UNAVAILABLE when that needs a root that is offline. */
  async signer(purpose: SigningPurpose): Promise<SigningKey & { readonly certificate: Certificate }> {
    const { environment, now } = context();
    const name = `${environment} ${purpose}`;
    const known = this.#signers.get(name);
    if (known && known.notBefore <= now && now < known.notAfter) return certified(known);
    const happened = this.#happened;
    let key = signingKeyFor(await this.load(), purpose, now);
    if (!key) {
      await this.provide(purpose, 0);
      key = signingKeyFor(await this.load(), purpose, now);
    }
    if (!key) throw refuse('UNAVAILABLE', `There is no active signing key for ${purpose}`);
    if (happened === this.#happened) this.#signers.set(name, key);
    return certified(key);
  }

  /** The keys that signing depends on: the active ones, and the root while it is here. Each with the setting that opens it, if any setting could. */
  async tried(): Promise<readonly TriedKey[]> {
    const { environment } = context();
    const { root, keys } = await this.load();
    const needed = [...(root && !root.offline ? [{ kid: root.kid, purpose: 'root' }] : []), ...[...keys.values()].filter(({ state }) => state === 'active')];
    const tried: TriedKey[] = [];
    for (const { kid, purpose } of needed) tried.push({ environment, purpose, kid, ...((await this.store.tried(kid)) ?? { setting: undefined, opens: false }) });
    return tried;
  }

  /** Ensures a root, or that nothing is left here of one that is offline, and an active key for every purpose that lasts for a while. Repeating it changes nothing. */
  async provideAll(): Promise<void> {
    await this.#provideRoot();
    for (const purpose of signingPurposes) await this.provide(purpose, renewDaysBefore);
  }

  /** One run at a time for each purpose, in the name of the system. */
  provide(purpose: SigningPurpose, daysBefore: number): Promise<void> {
    const { environment } = context();
    const name = `${environment} ${purpose}`;
    let providing = this.#providing.get(name);
    if (!providing) {
      providing = runIn(systemContext(environment, this.clock.now(environment)), () => this.#provide(purpose, daysBefore)).finally(() => this.#providing.delete(name));
      this.#providing.set(name, providing);
    }
    return providing;
  }

  /** Creates a staged key, certified if the root is here. `unlessThere`: not if there is an active or a staged key already. */
  async create(purpose: SigningPurpose, unlessThere = false): Promise<SigningKey> {
    const { kid, publicJwk } = await this.store.generate();
    const state = await this.run({ type: 'Create', kid, purpose, publicJwk, unlessThere });
    if (!state.keys.has(kid)) await this.store.destroy(kid); // another process was faster, or an earlier run did this
    const key = state.keys.get(kid) ?? [...state.keys.values()].findLast((one) => one.purpose === purpose);
    if (!key) throw new Error(`A key for ${purpose} was created but cannot be found`);
    return keyOf(await this.certify(key.kid), key.kid);
  }

  /** Certifies the key first, if possible. A key that cannot be used here would retire one that can. */
  async activate(kid: string, given?: Certificate): Promise<SigningKeysState> {
    const { state, notBefore, notAfter } = keyOf(await this.load(), kid);
    const { now } = context();
    if (state === 'staged') {
      const unfit = now < notBefore || now >= notAfter ? `It may sign from ${notBefore} to ${notAfter} only`
        : await this.#opens(kid) ? undefined : 'Its private key cannot be opened here: it is damaged, or was sealed with another KEYLEDGER_SIGNING_PASSPHRASE';
      if (unfit) throw refuse('INVALID_TRANSITION', unfit, { from: state, requested: 'activate', allowed: ['revoke'] });
    }
    await this.certify(kid, given);
    return this.run({ type: 'Activate', kid });
  }

  /** With a certificate made by the offline root, or, if the root is here, with a new one. Without either the key stays as it is. */
  async certify(kid: string, given?: Certificate): Promise<SigningKeysState> {
    const state = await this.load();
    const key = keyOf(state, kid);
    if (key.certificate || !state.root) return state;
    const statement = statementOf(key);
    if (given) await mustCertify(given, statement, state.root.publicJwk);
    else if (state.root.offline || !(await this.#opens(key.rootKid))) return state;
    const certificate = given ?? (JSON.parse(await this.store.sign(key.rootKid, { type: 'key-certificate', payload: statement })) as Certificate);
    return this.run({ type: 'Certify', kid, certificate: { ...certificate } });
  }

  async #provideRoot(): Promise<void> {
    const { root: before } = await this.load();
    if (before?.offline) await this.#leaveNothingOf(before.kid);
    if (before) return;
    const { kid, publicJwk } = await this.store.generate();
    const { root } = await this.run({ type: 'CreateRoot', kid, publicJwk });
    if (root?.kid !== kid) await this.store.destroy(kid); // another process was faster
  }

  /** The process that took the root offline may have died before destroying it here. If that still fails, it is no reason to stop signing. */
  async #leaveNothingOf(kid: string): Promise<void> {
    try {
      if (await this.store.has(kid)) await this.store.destroy(kid);
    } catch (error) {
      this.log.error({ err: error, environment: context().environment, kid }, 'the root is offline, but the private key could not be destroyed here; it will be tried again');
    }
  }

  async #provide(purpose: SigningPurpose, daysBefore: number): Promise<void> {
    const { now } = context();
    const state = await this.load();
    const key = signingKeyFor(state, purpose, now);
    if (key && addDays(now, daysBefore) < key.notAfter && await this.#opens(key.kid)) return;
    const successor = successorFor(await this.#openedOf(state), purpose, now) ?? await this.create(purpose, !key && !successorFor(state, purpose, now));
    const { certificate } = keyOf(await this.certify(successor.kid), successor.kid);
    if (certificate) await this.run({ type: 'Activate', kid: successor.kid });
    else this.log.warn({ environment: context().environment, purpose, kid: successor.kid }, 'a signing key waits for its certificate from the offline root');
  }

  /** Without staged keys that cannot be opened here: another process may be able to, or an operator revokes them. */
  async #openedOf(state: SigningKeysState): Promise<SigningKeysState> {
    const keys = new Map(state.keys);
    for (const key of state.keys.values()) if (key.state === 'staged' && !(await this.#opens(key.kid))) keys.delete(key.kid);
    return { ...state, keys };
  }

  async #opens(kid: string): Promise<boolean> {
    return (await this.store.tried(kid))?.opens === true;
  }

  #forget(): void {
    this.#happened++;
    this.#signers.clear();
  }
}

/** The statement for the root to sign, made of what the log says about the key. */
export const statementOf = ({ kid, purpose, publicJwk, notBefore, notAfter }: Pick<SigningKey, 'kid' | 'purpose' | 'publicJwk' | 'notBefore' | 'notAfter'>, environment = context().environment): KeyStatement =>
  ({ kid, purpose, environment, publicJwk: { kty: publicJwk.kty, crv: publicJwk.crv, x: publicJwk.x }, notBefore, notAfter });

/** Only keys with a certificate become active. */
const certified = (key: SigningKey) => key as SigningKey & { readonly certificate: Certificate & JsonObject };

/** CERTIFICATE_INVALID unless the root signed exactly this statement. */
async function mustCertify(certificate: Certificate, statement: KeyStatement, root: SigningKey['publicJwk']): Promise<void> {
  const opened = await Verifier.open({ environment: statement.environment, roots: [root] });
  const learned = opened.ok ? await opened.verifier.learn({ keys: [{ kid: statement.kid, kl_cert: certificate }] }) : opened;
  const reason = !learned.ok ? learned.reason : learned.refused[0]?.reason;
  if (reason) throw refuse('CERTIFICATE_INVALID', undefined, { reason });
  if (Buffer.from(certificate.payload, 'base64').toString() !== JSON.stringify(statement)) throw refuse('CERTIFICATE_INVALID', 'The certificate is for another key', { reason: 'BAD_CERTIFICATE' });
}
