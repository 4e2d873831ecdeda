import * as contracts from '@keyledger/contracts';
import { context, refuse, roles, systemClock, type MessageContext, type Role } from '@keyledger/kernel';
import { handlerOf, InProcessTransport, MessageClient, type Message, type MessageType } from '@keyledger/messaging';
import { createLog, Health, Metrics } from '@keyledger/observability';
import type { GatewayConfig } from './config.ts';
import { createGateway } from './gateway.module.ts';

/** Something that fits the schema: the first of several choices, all fields, one of each list. */
export function sampleOf(schema: object): unknown {
  const { anyOf, const: only, enum: choices, type, pattern, format, properties, items, minimum } = schema as Record<string, never> & { anyOf?: object[]; properties?: object; enum?: unknown[]; items?: object; minimum?: number };
  if (anyOf) return sampleOf(anyOf[0] as object);
  if (only !== undefined) return only;
  if (choices) return choices[0];
  if (type === 'object') return Object.fromEntries(Object.entries(properties ?? {}).map(([name, child]) => [name, sampleOf(child as object)]));
  if (type === 'array') return [sampleOf(items ?? {})];
  if (type === 'string' && pattern) return sampleId(String(pattern).slice(1, 4));
  if (type === 'string') return format === 'date-time' ? '2026-12-01T00:00:00.000Z' : format === 'email' ? 'ada@example.com' : format === 'uri' ? 'https://example.com/hook' : 'text';
  return type === 'boolean' ? true : type === 'null' ? null : Math.max(1, minimum ?? 1);
}

export const sampleId = (prefix: string): string => `${prefix}_01937c2e-0b5a-7c1d-8a53-2f1d9c7be001`;

type Answers = Record<string, (message: Record<string, unknown>) => unknown>;
interface Described {
  readonly answer: object;
}

/** A secret is `role@environment`; `root` instead of the environment reaches all of them. */
const authenticated: Answers = {
  'access.authenticate': ({ secret }) => {
    const [, role, environment] = /^(\w+)@(\w+)$/.exec(String(secret)) ?? [];
    const permissions = role && roles[role as Role];
    return permissions ? { apiKeyId: sampleId('key'), environment: environment === 'root' ? null : environment, role, permissions } : null;
  },
  // How long it stands is said to a gateway that asks for it.
  'activation.validate': () => ({ ...sampleOf(contracts.ValidateLicense.answer) as object, stands: undefined }),
  'environment.list': () => ({ data: ['production', 'staging'].map((name) => ({ name, createdAt: '2026-01-01T00:00:00.000Z' })) }),
  'access.claim-request': () => ({ state: 'run', commandId: '0b8a3c0e-6f0e-4f0a-9d3e-2b1c5a7d9e01', commandAt: '2026-12-01T00:00:00.000Z', retry: false }),
  'access.complete-request': ({ status, body, headers }) => ({ status, body, headers }),
};

export interface Call {
  as?: string | undefined;
  body?: unknown;
  headers?: Record<string, string>;
  address?: string;
}

/** A gateway whose services are answers that fit the messages' schemas, or those given. */
export async function gatewayWithFakes(answers: Answers = {}, limits: Partial<GatewayConfig['rateLimits']> = {}, trustProxy: GatewayConfig['trustProxy'] = false, stopDelayMs = 0) {
  const transport = new InProcessTransport();
  const sent: { subject: string; message: Record<string, unknown>; context: MessageContext }[] = [];
  const bugs: string[] = [];
  const fakes: Answers = { ...authenticated, ...answers };
  for (const type of Object.values(contracts).filter((value) => typeof value === 'function' && 'subject' in value) as unknown as (MessageType & Described)[]) {
    const execute = (message: Message) => {
      sent.push({ subject: type.subject, message: { ...message } as Record<string, unknown>, context: context() });
      const fake = fakes[type.subject];
      return fake ? fake(message as unknown as Record<string, unknown>) : sampleOf(type.answer);
    };
    transport.serve(type.subject, 'fakes', handlerOf(type, execute as never, { clock: systemClock, onError: (error) => void bugs.push(String(error)) }));
  }
  const app = await createGateway({
    messages: new MessageClient(transport), clock: systemClock, metrics: new Metrics('test', { processMetrics: false }), health: new Health(),
    log: createLog({ level: 'error', service: 'test', destination: { write: (line) => void bugs.push(line) } }),
    config: { host: '127.0.0.1', port: 0, stopDelayMs, trustProxy, rateLimits: { perLicenseKey: 0, unknownKeysPerAddress: 0, perApiKey: 0, ...limits } },
  });
  await app.getHttpAdapter().getInstance().ready();
  return {
    app, sent, bugs, fakes,
    async call(method: string, url: string, { as = 'super_admin@root', body, headers = {}, address = '127.0.0.1' }: Call = {}) {
      const payload = body === undefined ? {} : typeof body === 'string' ? { payload: body } : { payload: JSON.stringify(body) };
      const { statusCode: status, headers: answered, payload: text } = await app.inject({
        method: method as 'GET', url, remoteAddress: address, ...payload,
        headers: { ...(body !== undefined && { 'content-type': 'application/json' }), ...(as !== '' && { authorization: `Bearer ${as}` }), ...headers },
      });
      return { status, headers: answered as Record<string, unknown>, text, json: (isJson(answered) && text ? JSON.parse(text) : {}) as Record<string, never> & { code?: string } };
    },
    close: () => app.close(),
  };
}
export type FakedGateway = Awaited<ReturnType<typeof gatewayWithFakes>>;

const isJson = (headers: Record<string, unknown>): boolean => /json/.test(String(headers['content-type']));
export const refusing = (...refusal: Parameters<typeof refuse>) => (): never => {
  throw refuse(...refusal);
};
