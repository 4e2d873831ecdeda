import type { LicenseAnswer } from '../api.ts';

/** A "no", of the agent (RFC 9457) or of the way to it. `status` 0: nobody answered. */
export interface Failure {
  readonly ok: false;
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail: string;
  readonly members: Readonly<Record<string, unknown>>;
}
export type Outcome = { readonly ok: true; readonly license: LicenseAnswer } | Failure;

const patienceMs = 45_000;

/** The agent's HTTP API beside the page, wherever a proxy has put the two. Answers always, and never throws. */
export class Client {
  constructor(readonly token: string) {}

  read(): Promise<Outcome> {
    return this.#ask('GET', 'api/license');
  }

  refresh(): Promise<Outcome> {
    return this.#ask('POST', 'api/license/refresh');
  }

  deactivate(): Promise<Outcome> {
    return this.#ask('POST', 'api/license/deactivate');
  }

  /** What it would be like; applies nothing. */
  preview(license: string): Promise<Outcome> {
    return this.#ask('PUT', 'api/license?dry-run=all', { license });
  }

  update(license: string): Promise<Outcome> {
    return this.#ask('PUT', 'api/license', { license });
  }

  async #ask(method: string, path: string, body?: object): Promise<Outcome> {
    const headers = { authorization: `Bearer ${this.token}`, accept: 'application/json', ...(body && { 'content-type': 'application/json' }) };
    try {
      const response = await fetch(path, { method, headers, cache: 'no-store', signal: AbortSignal.timeout(patienceMs), ...(body && { body: JSON.stringify(body) }) });
      const answer: unknown = await response.json().catch(() => null);
      return response.ok && isLicense(answer) ? { ok: true, license: answer } : failure(response.status, answer);
    } catch (error) {
      const detail = error instanceof DOMException && error.name === 'TimeoutError' ? 'It did not answer in time.' : 'Nothing answers at its address. It may be stopped, or the network between you and it is down.';
      return { ok: false, status: 0, code: 'AGENT_UNREACHABLE', title: 'The license agent cannot be reached', detail, members: {} };
    }
  }
}

const isLicense = (answer: unknown): answer is LicenseAnswer => isObject(answer) && typeof answer['status'] === 'string' && typeof answer['enforcement'] === 'string';
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

function failure(status: number, answer: unknown): Failure {
  const members = isObject(answer) ? answer : {};
  const text = (name: string, otherwise: string) => (typeof members[name] === 'string' ? members[name] : otherwise);
  return {
    ok: false, status, code: text('code', 'UNEXPECTED_ANSWER'), title: text('title', 'The license agent gave an unexpected answer'), detail: text('detail', `It answered with status ${status}.`), members,
  };
}
