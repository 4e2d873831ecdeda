import type { KeySet, Reason } from '@keyledger/license-file';
import { joined, kidOf, readKept, written, type Checks, type Kept, type KnownKeys } from './kept.ts';
import type { Reply } from './server.ts';

/** What keys need of their license. Times are by its reckoning, in milliseconds since 1970. */
interface Port {
  readonly verifier: Checks;
  kept(): Kept;
  keep(changes: Partial<Kept>): void;
  now(): number;
  /** The server's list of keys; undefined without a server. */
  fetch(): Promise<Reply> | undefined;
}

type Failed = { readonly ok: false; readonly reason: Reason };

const keysForMs = 86_400_000;

/** The vendor's public keys, kept for a day. They come with certificates of the root, so they are the vendor's wherever they come from. */
export class Keys {
  readonly #port: Port;

  constructor(port: Port) {
    this.#port = port;
  }

  /** What `check` answers once the keys are fetched that it needs. */
  async checked<T extends { readonly ok: true }>(check: () => Promise<T | Failed>): Promise<T | Failed> {
    if (Math.abs(this.#port.now() - this.#port.kept().keysAt) > keysForMs) await this.refresh();
    const result = await check();
    if (result.ok || result.reason !== 'UNKNOWN_KEY') return result;
    await this.refresh();
    return check();
  }

  async refresh(): Promise<void> {
    const { verifier, kept, keep, now } = this.#port;
    const reply = await this.#port.fetch();
    const { keys, revocations } = (reply?.kind === 'answered' ? reply.body : {}) as Partial<KeySet>;
    if (!Array.isArray(keys)) return;
    const learned = await verifier.learn({ keys: [...kept().keys.keys, ...keys], ...(revocations !== undefined && { revocations }) });
    if (!learned.ok) return;
    // A key that the root has not certified replaces no known key: the list itself is not signed.
    const refused = new Set(learned.refused.map(({ kid }) => kid));
    const certified = keys.filter((key) => !refused.has(kidOf(key)));
    keep({ keys: joined(kept().keys, { keys: certified, revoked: verifier.revoked }), keysAt: now() });
    await this.#readAnew();
  }

  /** Takes over the keys of another process of this installation. */
  join(keys: KnownKeys, keysAt: number): void {
    const { kept, keep } = this.#port;
    const revoked = kept().keys.revoked?.length;
    keep({ keys: joined(kept().keys, keys), keysAt: Math.max(keysAt, kept().keysAt) });
    if (kept().keys.revoked?.length !== revoked) void this.#readAnew();
  }

  /** Learns the keys, and drops the proofs that are signed by a key which was revoked. */
  async #readAnew(): Promise<void> {
    const { verifier, kept, keep } = this.#port;
    const again = await readKept(written(kept()), verifier, kept().keys.keys);
    const { state } = kept();
    if (again) keep({ state: { ...state, lease: again.state.lease && state.lease, said: again.state.said && state.said, file: again.state.file && state.file } });
  }
}
