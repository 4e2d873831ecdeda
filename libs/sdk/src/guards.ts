import type { License } from './license.ts';
import type { Judgement } from './judgement.ts';

/** The parts of a request and a response that are used: those of Express, Connect, Fastify's middleware and node:http have them. */
export interface RequestLike {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
}
export interface ResponseLike {
  statusCode: number;
  setHeader(name: string, value: string): unknown;
  end(body: string): unknown;
}
export type Middleware = (request: RequestLike, response: ResponseLike, next: (error?: unknown) => void) => void;

export interface GuardOptions<R = RequestLike> {
  /** Default: everything but GET, HEAD and OPTIONS. */
  readonly isWrite?: (request: R) => boolean;
  /** Requests that pass whatever the license says: health checks, and the page where a new license is uploaded. */
  readonly always?: (request: R) => boolean;
  /** Requests also need this feature. */
  readonly feature?: string;
}

const reads = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Why the request is blocked; undefined if it is not. READ_ONLY blocks writes and lets reads pass, LOCKED blocks all. */
export function blockedBy<R extends RequestLike>(license: Pick<License, 'judgement' | 'feature'>, request: R, { isWrite, always, feature }: GuardOptions<R> = {}): Pick<Judgement, 'code' | 'detail' | 'enforcement'> | undefined {
  if (always?.(request)) return undefined;
  const judgement = license.judgement();
  if (judgement.enforcement === 'LOCKED') return judgement;
  if (feature !== undefined && !license.feature(feature).enabled) return { code: 'FEATURE_MISSING', detail: `The license does not include "${feature}"`, enforcement: judgement.enforcement };
  const writes = isWrite ? isWrite(request) : !reads.has(request.method?.toUpperCase() ?? '');
  return judgement.enforcement === 'READ_ONLY' && writes ? judgement : undefined;
}

/** For Express and its like: 403 with `application/problem+json`. */
export const licenseMiddleware = (license: Pick<License, 'judgement' | 'feature'>, options: GuardOptions = {}): Middleware => (request, response, next) => {
  const blocked = blockedBy(license, request, options);
  if (!blocked) return next();
  const { code, detail, enforcement } = blocked;
  response.statusCode = 403;
  response.setHeader('Content-Type', 'application/problem+json; charset=utf-8');
  response.end(JSON.stringify({ title: 'Not licensed', status: 403, code, detail, enforcement }));
};

/** For Express and its like: lets requests pass only with this feature. It blocks no writes; `licenseMiddleware` does. */
export const requireFeature = (license: Pick<License, 'judgement' | 'feature'>, feature: string, { always }: Pick<GuardOptions, 'always'> = {}): Middleware =>
  licenseMiddleware(license, { feature, isWrite: () => false, ...(always && { always }) });

/** The part of Nest's ExecutionContext that is used. */
export interface ExecutionContextLike {
  getType?(): string;
  switchToHttp(): { getRequest<T>(): T };
  getClass?(): object;
  getHandler?(): object;
}

const required = new WeakMap<object, readonly string[]>();

/** For Nest: on a controller or on one of its methods. A `LicenseGuard` lets requests pass only with all of these features. A subclass inherits them, unless it has its own. */
export const RequireFeature = (...features: readonly string[]) => (target: object, _name?: unknown, descriptor?: { readonly value?: unknown }): void => {
  const marked = (descriptor?.value ?? target) as object;
  required.set(marked, [...(required.get(marked) ?? []), ...features]);
};

const requiredOf = (marked: object | null | undefined): readonly string[] => (marked ? (required.get(marked) ?? requiredOf(Object.getPrototypeOf(marked) as object | null)) : []);

/** A message that does not come over HTTP has no method, and is a write unless `isWrite` says otherwise. */
const requestIn = (context: ExecutionContextLike): RequestLike => ((context.getType?.() ?? 'http') === 'http' && context.switchToHttp().getRequest<RequestLike | undefined>()) || {};

/** For Nest: `app.useGlobalGuards(new LicenseGuard(license))`, or `@UseGuards(new LicenseGuard(license, { feature: 'sso' }))`. Nest answers 403. */
export class LicenseGuard {
  readonly #license: Pick<License, 'judgement' | 'feature'>;
  readonly #options: GuardOptions;

  constructor(license: Pick<License, 'judgement' | 'feature'>, options: GuardOptions = {}) {
    this.#license = license;
    this.#options = options;
  }

  canActivate(context: ExecutionContextLike): boolean {
    const request = requestIn(context);
    if (this.#options.always?.(request)) return true;
    const marked = [context.getClass?.(), context.getHandler?.()].flatMap(requiredOf);
    return blockedBy(this.#license, request, this.#options) === undefined && marked.every((name) => this.#license.feature(name).enabled);
  }
}
