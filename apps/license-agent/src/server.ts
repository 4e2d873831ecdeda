import { createHash, timingSafeEqual } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Agent } from './agent.ts';
import { problems, Refused, type Access, type ProblemCode } from './api.ts';
import type { AgentConfig } from './config.ts';
import type { Reading } from './holder.ts';
import { metricsOf } from './metrics.ts';
import { requestOf } from './request.ts';

export interface ServerOptions {
  readonly agent: Agent;
  readonly token: string;
  readonly viewerToken: string | undefined;
  readonly page: Pick<AgentConfig, 'productName' | 'style'>;
  readonly failed: (error: unknown, path: string) => void;
}

const maxBody = 256 * 1024;
const json = 'application/json; charset=utf-8';
const common = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' };
const pagePolicy = {
  ...common, 'x-frame-options': 'DENY', 'cross-origin-opener-policy': 'same-origin',
  'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
};

/** The page, the API, and the endpoints for monitoring. Everything under `/api` needs a token; a viewer's is good for reading. */
export function handlerOf({ agent, token, viewerToken, page, failed }: ServerOptions): RequestListener {
  const files = pageOf(page);
  const accessBy = checkOf(token, viewerToken);
  const enforcement = (): Reply => ({ status: 200, type: json, body: agent.enforcement() });
  const api: Readonly<Record<string, (request: IncomingMessage, query: URLSearchParams, access: Access) => Promise<Reply> | Reply>> = {
    'GET /api/license': (_request, _query, access) => ok(agent.answer(access)),
    'GET /api/license/request': () => ok(requestOf(agent.answer())),
    'GET /api/enforcement': () => enforcement(),
    'PUT /api/license': async (request, query) => {
      const dryRun = dryRunIn(query);
      return ok(await agent.put(licenseIn(await bodyOf(request)), { dryRun }));
    },
    'POST /api/license/refresh': async () => ok(await agent.refresh()),
    'POST /api/license/deactivate': async () => ok(await agent.deactivate()),
    'POST /api/usage': async (request) => ok(await agent.use(readingsIn(await bodyOf(request)))),
  };

  const answer = async (request: IncomingMessage, path: string, search: string): Promise<Reply> => {
    const method = request.method === 'HEAD' ? 'GET' : (request.method ?? '');
    if (path.startsWith('/api/')) {
      const access = accessBy(request.headers.authorization);
      if (!access) throw new Refused('UNAUTHENTICATED');
      const feature = /^\/api\/features\/([^/]+)$/.exec(path)?.[1];
      const name = `${method} ${path}`;
      const route = feature !== undefined && method === 'GET' ? () => ok(agent.feature(decoded(feature))) : api[name];
      if (!route) throw new Refused(feature !== undefined || Object.keys(api).some((one) => one.endsWith(` ${path}`)) ? 'METHOD_NOT_ALLOWED' : 'NOT_FOUND');
      if (method !== 'GET' && access !== 'full') throw new Refused('VIEWER_TOKEN', 'Changes need the agent token');
      const query = new URLSearchParams(search);
      // Unknown parameters are refused: `?dryRun=all` would install a license that was only to be tried.
      only(Object.fromEntries(query), '', ...(name === 'PUT /api/license' ? ['dry-run'] : []));
      return route(request, query, access);
    }
    const name = path === '/' ? '/index.html' : path;
    if (method !== 'GET') throw new Refused(files.has(name) ? 'METHOD_NOT_ALLOWED' : 'NOT_FOUND');
    if (path === '/health/live' || path === '/health/ready') return ok({ status: 'ok' });
    if (path === '/metrics') return { status: 200, type: 'text/plain; version=0.0.4; charset=utf-8', body: metricsOf(agent.answer()) };
    const file = files.get(name);
    if (!file) throw new Refused('NOT_FOUND');
    return { status: 200, type: file.type, body: file.bytes, headers: pagePolicy };
  };

  return (request, response) => {
    // Called on every request of a product: nothing is awaited, and nothing built.
    if (request.url === '/api/enforcement' && request.method === 'GET' && accessBy(request.headers.authorization)) return send(response, enforcement());
    const [path = '', ...search] = (request.url ?? '').split('?');
    answer(request, path, search.join('?')).then(
      (reply) => send(response, reply),
      (error: unknown) => {
        if (!(error instanceof Refused)) failed(error, path);
        send(response, problemOf(error instanceof Refused ? error : new Refused('INTERNAL'), path));
        // The unread rest of a body must not become the next request.
        if (!request.complete) request.destroy();
      },
    );
  };
}

interface Reply {
  readonly status: number;
  readonly type: string;
  readonly body: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

const ok = (body: object): Reply => ({ status: 200, type: json, body: JSON.stringify(body) });

function problemOf({ code, message: detail, members }: Refused, instance: string): Reply {
  const { status, title } = problems[code];
  const headers: Partial<Record<ProblemCode, Record<string, string>>> = { UNAUTHENTICATED: { 'www-authenticate': 'Bearer' }, USAGE_QUEUE_FULL: { 'retry-after': '60' }, STORAGE_FAILED: { 'retry-after': '60' } };
  return { status, type: 'application/problem+json; charset=utf-8', body: JSON.stringify({ type: `/docs/errors#${code}`, title, status, detail, instance, ...members, code }), headers: { ...common, ...headers[code] } };
}

function send(response: ServerResponse, { status, type, body, headers = common }: Reply): void {
  response.writeHead(status, { ...headers, 'content-type': type, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

/** Hashed first, so that the time it takes reveals neither the length nor the letters. */
function checkOf(token: string, viewerToken: string | undefined): (header: string | undefined) => Access | null {
  const digest = (text: string) => createHash('sha256').update(text).digest();
  const [full, viewer] = [token, viewerToken].map((one) => (one === undefined ? undefined : digest(`Bearer ${one}`)));
  return (header = '') => {
    const given = digest(header.replace(/^bearer /i, 'Bearer '));
    if (full && timingSafeEqual(given, full)) return 'full';
    return viewer && timingSafeEqual(given, viewer) ? 'viewer' : null;
  };
}

// ---- what is asked with ----

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  if (!/^application\/json\s*(;|$)/i.test(request.headers['content-type'] ?? '')) throw new Refused('UNSUPPORTED_MEDIA_TYPE', 'Send application/json');
  if (Number(request.headers['content-length'] ?? 0) > maxBody) throw new Refused('BODY_TOO_LARGE');
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    if ((length += chunk.length) > maxBody) throw new Refused('BODY_TOO_LARGE');
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8')) as unknown;
  } catch {
    throw new Refused('MALFORMED_JSON');
  }
}

const malformed = (pointer: string, detail: string): Refused => new Refused('VALIDATION_FAILED', `${pointer || 'The body'} ${detail}`, { errors: [{ pointer, detail }] });
const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

function only(value: unknown, pointer: string, ...names: readonly string[]): Record<string, unknown> {
  if (!isObject(value)) throw malformed(pointer, 'must be an object');
  const strange = Object.keys(value).find((name) => !names.includes(name));
  if (strange !== undefined) throw malformed(`${pointer}/${strange}`, 'is not known');
  return value;
}

function dryRunIn(query: URLSearchParams): boolean {
  const values = query.getAll('dry-run');
  if (values.some((value) => value !== 'all')) throw malformed('dry-run', 'must be "all"');
  return values.length > 0;
}

function licenseIn(body: unknown): string {
  const { license } = only(body, '', 'license');
  if (typeof license !== 'string' || license.trim() === '') throw malformed('/license', 'must be the text of a license file, or a license key');
  return license;
}

/** One reading, or `records` of them. Bounds are those of the server, so that no reading spoils the batch it is sent with. */
function readingsIn(body: unknown): Reading[] {
  const list = isObject(body) && 'records' in body ? only(body, '', 'records')['records'] : [body];
  if (!Array.isArray(list) || list.length === 0 || list.length > 1000) throw malformed('/records', 'must be 1 to 1000 readings');
  return list.map((item: unknown, n) => {
    const pointer = isObject(body) && 'records' in body ? `/records/${n}` : '';
    const { id, meter, value, at } = only(item, pointer, 'id', 'meter', 'value', 'at');
    const isText = (text: unknown): text is string => typeof text === 'string' && text.length > 0 && text.length <= 255 && !/\p{Cc}/u.test(text) && text.isWellFormed();
    if (!isText(meter)) throw malformed(`${pointer}/meter`, 'must be a text of 1 to 255 letters');
    if (typeof value !== 'number' || !(value >= 0 && value <= 1e12)) throw malformed(`${pointer}/value`, 'must be a number from 0 to 1e12');
    if (id !== undefined && !isText(id)) throw malformed(`${pointer}/id`, 'must be a text of 1 to 255 letters');
    if (at !== undefined && !isInstant(at)) throw malformed(`${pointer}/at`, 'must be an instant of RFC 3339');
    return { meter, value, ...(id !== undefined && { id }), ...(at !== undefined && { at: new Date(at).toISOString() }) };
  });
}

/** `Date.parse` takes 30 February and 24 o'clock for the day after; the server does not. */
function isInstant(text: unknown): text is string {
  if (typeof text !== 'string' || !/^\d{4}-\d\d-\d\dT(?!24)\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i.test(text) || Number.isNaN(Date.parse(text))) return false;
  const day = text.slice(0, 10);
  return new Date(day).toISOString().startsWith(day);
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Refused('NOT_FOUND');
  }
}

// ---- the page ----

const types: Readonly<Record<string, string>> = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };
/** The page's sources, and its compiled scripts; the paths are the same from `src` and `dist`. */
const folders = ['../src/page', '../dist/page'].map((path) => fileURLToPath(new URL(path, import.meta.url)));

/** All files of the page, read once: no others can be requested. */
function pageOf({ productName, style }: ServerOptions['page']): ReadonlyMap<string, { readonly type: string; readonly bytes: Buffer }> {
  const names = folders.filter(existsSync).flatMap((folder) => readdirSync(folder).filter((name) => types[extname(name)]).map((name) => [folder, name] as const));
  return new Map(names.map(([folder, name]) => {
    const text = readFileSync(join(folder, name), 'utf8');
    const own = name === 'index.html' ? text.replaceAll('API Platform', () => escaped(productName)) : name === 'page.css' ? `${text}\n${style}` : text;
    return [`/${name}`, { type: types[extname(name)] ?? '', bytes: Buffer.from(own) }];
  }));
}

const escaped = (text: string): string => text.replaceAll(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
