import type { Judgement, Refusal } from '@keyledger/sdk';
import { problems, Refused, type ProblemAnswer, type ProblemCode } from './api.ts';
import type { Logger } from './open-license.ts';

/** How refusals by the server, a file or the disk are reported. */

const isProblemCode = (code: string): code is ProblemCode => Object.hasOwn(problems, code);

/** The server's refusal, in its own words. */
export function refusedBy({ code, detail, members, retryAfterMs }: Refusal): Refused {
  if (code === 'UNREACHABLE') return notReached(detail, members['status'], retryAfterMs);
  const { type: _type, title: _title, status: _status, detail: _detail, instance: _instance, code: _code, requestId: _requestId, ...more } = members;
  return isProblemCode(code) ? new Refused(code, detail, more) : new Refused('LICENSE_REFUSED', detail, { ...more, serverCode: code });
}

/** A 429 or 5xx shows that the server is there; other answers that are not the server's come from something on the way. */
function notReached(detail: string, status: unknown, retryAfterMs: number | null): Refused {
  if (typeof status !== 'number' || (status !== 429 && status < 500)) return new Refused('NO_OUTBOUND_ACCESS', `The license server cannot be reached (${detail}): check outbound access, HTTPS_PROXY and NO_PROXY`);
  const wait = retryAfterMs === null ? '' : `, and asks for the next try in ${Math.ceil(retryAfterMs / 1000)} seconds`;
  const why = status === 429 ? `gets too many requests (429)${wait}` : status === 503 ? `is not available (503)${wait}` : `failed (${status})${wait}`;
  return new Refused('LICENSE_SERVER_UNAVAILABLE', `The license server can be reached, but it ${why}. The agent tries again by itself; if this persists, tell your vendor`, { serverStatus: status });
}

/** An error that is no refusal is a bug, and is logged whole. */
export function refusedIn(error: unknown, log: Logger): Refused {
  if (error instanceof Refused) return error;
  log.warn({ err: error }, 'a license could not be checked');
  return new Refused('INTERNAL');
}

const isForNow: ReadonlySet<string> = new Set<ProblemCode>(['NO_OUTBOUND_ACCESS', 'LICENSE_SERVER_UNAVAILABLE', 'UNTRUSTED_ANSWER', 'STORAGE_FAILED']);

/** It says nothing about the license. */
export const saysNothing = ({ code }: Refused): boolean => isForNow.has(code);

/** A refused key or file may be good later; one is tried again soon if the server could not be reached. */
export const retryMs = { refused: 300_000, unreachable: [1_000, 60_000] } as const;

/** The refusal that a verdict or a file states. */
export function refusedFor({ code, detail, expiresAt }: Judgement): Refused {
  const own = [`LICENSE_${code}`, code].find(isProblemCode) ?? 'LICENSE_REFUSED';
  return new Refused(own, detail, { reason: code, ...(code === 'EXPIRED' && { expiresAt }) });
}

/** A file says for how long it is good offline. Too old is no refusal by the server. */
export function refusedFile(judgement: Judgement, issuedAt: string): Refused {
  const { code, offlineUntil } = judgement;
  if (code !== 'HEARTBEAT_OVERDUE') return refusedFor(judgement);
  return new Refused('LICENSE_FILE_TOO_OLD', `It was issued on ${issuedAt}${offlineUntil === null ? '' : ` and was valid until ${offlineUntil}`} without contact to the license server. Ask your vendor for a new one`, { issuedAt, offlineGraceEndsAt: offlineUntil });
}

/** A write must reach the disk, or the caller must know that it did not. */
export async function stored<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw new Refused('STORAGE_FAILED', `The data directory cannot be written (${(error as NodeJS.ErrnoException).code ?? 'unknown error'})`);
  }
}

const titles: Readonly<Record<string, string>> = {
  STATE_OF_ANOTHER_MACHINE: 'The data directory belongs to another machine', STATE_DAMAGED: 'The state was damaged', STATE_CLONED: 'This machine was cloned',
  CLOCK_SET_BACK: 'The clock was set back', LICENSE_FILE_MISSING: 'There is no license file',
};
const titleOf = (code: string): string => titles[code] ?? (isProblemCode(code) ? problems[code].title : code);

type Topic = 'state' | 'key' | 'file' | 'clone' | 'clock';

/** Problems that the license itself does not show: one of each topic, until it is settled. */
export class Problems {
  readonly #known = new Map<Topic, ProblemAnswer>();
  readonly #log: Logger;
  readonly #now: () => number;

  constructor(log: Logger, now: () => number) {
    this.#log = log;
    this.#now = now;
  }

  get all(): readonly ProblemAnswer[] {
    return [...this.#known.values()];
  }

  report(topic: Topic, code: string, detail: string): void {
    const known = this.#known.get(topic);
    if (known?.code === code && known.detail === detail) return;
    this.#known.set(topic, { code, severity: topic === 'clock' ? 'warning' : 'error', title: titleOf(code), detail, at: new Date(this.#now()).toISOString() });
    this.#log.warn({ code }, detail);
  }

  settle(topic: Topic): void {
    this.#known.delete(topic);
  }
}

/** Problems of the license as it stands. */
export function standingProblems({ code, detail, valid, enforcement, unreachable, graceUntil, offlineUntil, at }: Judgement, { hasLicense, isStored, unheard }: { readonly hasLicense: boolean; readonly isStored: boolean; /** Why the server was not reached. */ readonly unheard: Refused | null }): ProblemAnswer[] {
  const disk: ProblemAnswer[] = isStored ? [] : [{ code: 'STORAGE_FAILED', severity: 'error', title: problems.STORAGE_FAILED.title, detail: 'The agent works with what it knows; changes cannot be stored', at }];
  if (!hasLicense) return [...disk, { code: 'NO_LICENSE', severity: 'error', title: problems.NO_LICENSE.title, detail: 'Upload a license file, or enter a license key', at }];
  const why = unheard?.code ?? 'NO_OUTBOUND_ACCESS';
  const until = offlineUntil === null ? '' : ` It works until ${offlineUntil}`;
  return [
    ...disk,
    ...(valid && enforcement === 'FULL' ? [] : [{ code, severity: valid && enforcement === 'WARN' ? 'warning' as const : 'error' as const, title: detail, detail: graceUntil === null ? detail : `${detail}, until ${graceUntil}`, at }]),
    ...(unreachable ? [{ code: why, severity: 'warning' as const, title: problems[why].title, detail: `${why === 'NO_OUTBOUND_ACCESS' ? 'The license server did not answer' : (unheard?.message ?? '')}.${until}`, at }] : []),
  ];
}
