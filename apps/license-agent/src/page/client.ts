import type { LicenseAnswer, RequestAnswer } from '../api.ts';

/** A refusal by the agent (RFC 9457), or by the network to it. `status` 0: no answer. */
export interface Failure {
  readonly ok: false;
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly detail: string;
  readonly members: Readonly<Record<string, unknown>>;
}
export type Outcome = { readonly ok: true; readonly license: LicenseAnswer } | Failure;
export type Requested = { readonly ok: true; readonly request: RequestAnswer } | Failure;

const patienceMs = 45_000;

/** The agent's HTTP API beside the page, wherever a proxy has put the two. Always returns an outcome, never throws. */
export class Client {
  constructor(readonly token: string) {}

  read(): Promise<Outcome> {
    return this.#ask('GET', 'api/license');
  }

  async request(): Promise<Requested> {
    const { answer, status } = await this.#send('GET', 'api/license/request');
    return isObject(answer) && typeof answer['text'] === 'string' ? { ok: true, request: answer as unknown as RequestAnswer } : failure(status, answer);
  }

  refresh(): Promise<Outcome> {
    return this.#ask('POST', 'api/license/refresh');
  }

  deactivate(): Promise<Outcome> {
    return this.#ask('POST', 'api/license/deactivate');
  }

  /** The license as it would be; applies nothing. */
  preview(license: string): Promise<Outcome> {
    return this.#ask('PUT', 'api/license?dry-run=all', { license });
  }

  update(license: string): Promise<Outcome> {
    return this.#ask('PUT', 'api/license', { license });
  }

  async #ask(method: string, path: string, body?: object): Promise<Outcome> {
    const { answer, status } = await this.#send(method, path, body);
    return status < 400 && isLicense(answer) ? { ok: true, license: answer } : failure(status, answer);
  }

  /** `status` 0: no answer. */
  async #send(method: string, path: string, body?: object): Promise<{ readonly status: number; readonly answer: unknown }> {
    const headers = { authorization: `Bearer ${this.token}`, accept: 'application/json', ...(body && { 'content-type': 'application/json' }) };
    try {
      const response = await fetch(path, { method, headers, cache: 'no-store', signal: AbortSignal.timeout(patienceMs), ...(body && { body: JSON.stringify(body) }) });
      return { status: response.status, answer: await response.json().catch(() => null) };
    } catch (error) {
      const detail = error instanceof DOMException && error.name === 'TimeoutError' ? 'It did not answer in time.' : 'Nothing answers at its address. It may be stopped, or the network between you and it is down.';
      return { status: 0, answer: { code: 'AGENT_UNREACHABLE', title: 'The license agent cannot be reached', detail } };
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
