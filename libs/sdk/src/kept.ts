import type { Verifier } from '@keyledger/license-file';
import type { SeatOptions } from './api.ts';
import { objectIn } from './json.ts';
import { initial, saidByFile, saidByVerdict, type State } from './state.ts';
import type { Reading } from './time.ts';
import type { SentRecord, UsageRecord } from './usage.ts';

/** A heartbeat as it was sent: sent again, it must be the same to the letter. */
export interface Beat {
  readonly seq: number;
  readonly nonce: string;
  readonly acks: readonly string[];
  readonly version?: string;
  /** Whether the server has answered it. */
  readonly answered: boolean;
}

export type Checks = Pick<Verifier, 'learn' | 'distrust' | 'revoked' | 'lease' | 'verdict' | 'licenseFile' | 'offlineFile'>;

/** Public keys with their certificates, and the ids of revoked ones, which came with a signature. */
export interface KnownKeys {
  readonly keys: readonly unknown[];
  readonly revoked?: readonly string[];
}

/** All that outlives the process. */
export interface Kept {
  /** A random id, which identifies this instance where the machine has nothing better. */
  readonly installation: string;
  readonly keys: KnownKeys;
  /** When the keys were fetched, by the license's own reckoning. */
  readonly keysAt: number;
  /** The options with which the seat was taken, to take another one like it. */
  readonly seat?: SeatOptions | undefined;
  /** The activation that this process is about to give back: no other process may take it again. */
  readonly leaving?: string | undefined;
  readonly beat: Beat;
  /** Directives to be acknowledged with the next heartbeat. */
  readonly acks: readonly string[];
  /** Readings not reported yet; and reported ones that still count. */
  readonly outbox: readonly UsageRecord[];
  readonly sent: readonly SentRecord[];
  readonly state: State;
}

export const nothingKept = (reading: Reading, installation: string, after = 0): Kept => ({
  installation, keys: { keys: [], revoked: [] }, keysAt: 0, beat: { seq: 0, nonce: '', acks: [], answered: true }, acks: [], outbox: [], sent: [], state: initial(reading, after),
});

/** What a process takes over from another one of the same installation that has ended. Proofs are left to `apply`. */
export function inherited(own: Kept, { seat, beat, acks, outbox, sent, state: { epoch } }: Kept): Kept {
  const isFurther = epoch === own.state.epoch ? beat.seq > own.beat.seq || (beat.seq === own.beat.seq && !own.beat.answered) : epoch > own.state.epoch;
  const counted = [...new Map([...own.sent, ...sent].map((record) => [record.id, record])).values()];
  const done = new Set(counted.map(({ id }) => id));
  const waiting = [...new Map([...outbox, ...own.outbox].map((record) => [record.id, record])).values()].filter(({ id }) => !done.has(id));
  return { ...own, seat: own.seat ?? seat, beat: isFurther ? beat : own.beat, acks: [...new Set([...acks, ...own.acks])], outbox: waiting, sent: counted };
}

export const kidOf = (key: unknown): unknown => (key as { kid?: unknown } | null)?.kid;

/** A list that leaves out a certified key does not remove it. */
export function joined(known: KnownKeys, news: KnownKeys): KnownKeys {
  const fresh = new Set(news.keys.map(kidOf));
  return { keys: [...news.keys, ...known.keys.filter((key) => !fresh.has(kidOf(key)))], revoked: [...new Set([...(known.revoked ?? []), ...(news.revoked ?? [])])].slice(0, 1000) };
}

const mostKeys = 100;

/**
 * The stored text must not grow with every key that a vendor ever had. Of too many keys it holds the newest for leases and verdicts (files bring
 * their keys along), and those of the proofs stored beside them, which must be readable while the server is away.
 */
function lasting(keys: readonly unknown[], { lease, said }: Pick<State, 'lease' | 'said'>): readonly unknown[] {
  if (keys.length <= mostKeys) return keys;
  const inUse = [lease, said].map((proof) => proof && partIn(proof.text, 0)['kid']);
  const all = keys.map((key) => ({ key, ...certifiedOf(key) }));
  const newestFirst = (wanted: string) => all.filter(({ purpose }) => purpose === wanted).sort((a, b) => b.since - a.since).map(({ key }) => key);
  return ['lease', 'verdict'].flatMap((purpose) => newestFirst(purpose).filter((key, n) => n < mostKeys / 2 || inUse.includes(kidOf(key))));
}

/** From a certificate that was checked when the key was learned. */
function certifiedOf(key: unknown): { readonly purpose: unknown; readonly since: number } {
  const payload = (key as { kl_cert?: { payload?: unknown } | null } | null)?.kl_cert?.payload;
  const { purpose, notBefore } = objectIn(decoded(String(payload))) ?? {};
  return { purpose, since: Date.parse(String(notBefore)) };
}

/** Holds proofs as they were signed, not what was read from them: that is read anew each time. */
export const written = ({ state: { lease, said, file, ...state }, keys, ...kept }: Kept): string =>
  JSON.stringify({ version: 1, ...kept, keys: { ...keys, keys: lasting(keys.keys, { lease, said }) }, state: { ...state, lease: lease?.text ?? null, said: said && { from: said.from, text: said.text }, file: file?.text ?? null } });

/** The installation that a stored text names, before any of it is verified. */
export function installationIn(text: string | undefined): string | undefined {
  const installation = objectIn(text ?? '')?.['installation'];
  return typeof installation === 'string' ? installation : undefined;
}

interface Written extends Omit<Kept, 'state'> {
  readonly version: number;
  readonly state: Omit<State, 'lease' | 'said' | 'file' | 'epoch'> & { readonly epoch?: number; readonly lease: string | null; readonly said: { readonly from: 'network' | 'offline-file'; readonly text: string } | null; readonly file: string | null };
}

/**
 * The text must be known to be of this installation. Proofs whose key was revoked since are left out. Undefined for a text of another version.
 * `known`: keys that the verifier learns beside those of the text.
 */
export async function readKept(text: string, verifier: Checks, known: readonly unknown[] = []): Promise<Kept | undefined> {
  const stored = objectIn(text) as Written | undefined;
  if (stored?.version !== 1) return undefined;
  const { version: _, state: { lease, said, file, ...state }, ...kept } = stored;
  verifier.distrust(kept.keys.revoked ?? []);
  await verifier.learn({ keys: joined({ keys: known }, kept.keys).keys });
  const [leased, answered, licensed] = await Promise.all([
    lease && verifier.lease(lease, { now: timeIn(lease) }),
    said && (said.from === 'network' ? verifier.verdict(said.text, { now: timeIn(said.text), nonce: nonceIn(said.text) }) : opened(verifier, said.text)),
    file && verifier.licenseFile(file, { now: endOfTime }),
  ]);
  return {
    ...kept,
    state: {
      ...state, epoch: state.epoch ?? 0,
      lease: lease && leased && leased.ok ? { text: lease, claims: leased.claims } : null,
      said: said && answered && answered.ok ? ('claims' in answered ? saidByVerdict(said.text, answered.claims) : saidByFile(said.text, answered.file)) : null,
      file: file && licensed && licensed.ok ? { text: file, file: licensed.file } : null,
    },
  };
}

const endOfTime = '9999-12-31T23:59:59.999Z';

/** Checked as of its issue: it was good when it was taken, and whether it still is follows from the state. */
async function opened(verifier: Checks, text: string) {
  const issued = objectIn(decoded(String(objectIn(text)?.['payload'])));
  return verifier.offlineFile(text, { now: String(issued?.['issuedAt']) });
}

/**
 * The time of issue that a token claims. Do not believe it before the signature was checked; tokens are checked as of that time, because a wrong
 * clock must not reject an answer that was just given. The actual time then follows from the answer.
 */
export function timeIn(token: string): string {
  const { iat } = partIn(token, 1);
  return typeof iat === 'number' && iat >= 0 && iat < 253_402_300_800 ? new Date(iat * 1000).toISOString() : '';
}
const nonceIn = (token: string): string => String(partIn(token, 1)['nonce'] ?? '');
/** 0 is the header, 1 the body. */
const partIn = (token: string, n: 0 | 1): Record<string, unknown> => objectIn(decoded((token.split('.')[n] ?? '').replaceAll('-', '+').replaceAll('_', '/'))) ?? {};

function decoded(base64: string): string {
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)));
  } catch {
    return '';
  }
}
