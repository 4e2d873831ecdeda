import { Delete, Get, HttpCode, Patch, Post, Put } from '@nestjs/common';
import { RouteConfig, RouteSchema } from '@nestjs/platform-fastify';
import type { ErrorCode, Permission } from '@keyledger/kernel';
import Type, { type TObject, type TProperties, type TSchema } from 'typebox';

/** Who may call: a permission of the API key; any API key; the holder of a license key; everybody. */
export type Access = Permission | 'any-api-key' | 'license-key' | 'public';

export type FileType = 'text/csv';

export interface OperationOptions {
  /** The row of the permission table. */
  needs: Access;
  /** The key of the license in the path is accepted instead of an API key: `Authorization: License <license key>`. */
  orLicenseKey?: boolean;
  summary: string;
  body?: TObject;
  /** The body is a file of this type, passed on as bytes; then there is no `body`. */
  file?: FileType;
  query?: TProperties;
  /** Undefined: no body (204). */
  answer?: TSchema;
  /** Other representations of the answer, by content type, among which the caller chooses. */
  otherwise?: Readonly<Record<string, TSchema>>;
  status?: number;
  /** Further statuses with the same body, e.g. 200 beside 201. */
  alsoStatus?: number;
  refuses?: readonly ErrorCode[];
  /** A single resource: its revision becomes the ETag, and routes that change it honour If-Match. */
  versioned?: boolean;
  contentType?: string;
  /** The answer has a Location header for what it started. */
  location?: boolean;
  /** Public, yet different in each environment. */
  ofEnvironment?: boolean;
  /** Changes nothing, whatever its method. */
  safe?: boolean;
  /** For the documentation. */
  example?: { body?: object; answer: object };
}

export interface Operation extends OperationOptions {
  /** The name of the handler; unique, because clients are generated from it. */
  id: string;
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
}

/** One object for all of them: Ajv compiles it once. */
export const nothing = Type.Object({}, { additionalProperties: false });

/** Everything about a route in one place: method, path, permission, schemas, documentation. */
export function Route(route: `${Operation['method']} /${string}`, options: OperationOptions): MethodDecorator {
  const [method, path] = route.split(' ') as [Operation['method'], string];
  const verb = { GET: Get, POST: Post, PUT: Put, PATCH: Patch, DELETE: Delete }[method];
  return (target, key, descriptor) => {
    const operation: Operation = { ...options, id: String(key), method, path };
    const schema = {
      ...(method !== 'GET' && !options.file && { body: options.body ?? nothing }),
      // Otherwise `DELETE …?dryRun=true` would delete. Probes and browsers may append what they like to the address of a document.
      ...(hasEnvironment(operation) && { querystring: options.query ? Type.Object(options.query, { additionalProperties: false }) : nothing }),
    };
    for (const decorate of [verb(path), HttpCode(statusOf(operation)), RouteConfig({ operation }), RouteSchema(schema)]) {
      (decorate as MethodDecorator)(target, key, descriptor);
    }
  };
}

export const statusOf = ({ status, answer }: OperationOptions): number => status ?? (answer ? 200 : 204);
export const isMutation = ({ method, safe }: Operation): boolean => method !== 'GET' && !safe;
export const needsApiKey = ({ needs }: Operation): boolean => needs !== 'public' && needs !== 'license-key';
/** Routes for customers' software, wherever it runs: also in a page of another origin, which sends a key of its own and no cookies. */
export const isForCustomers = ({ needs, orLicenseKey, ofEnvironment }: Operation): boolean => needs === 'license-key' || orLicenseKey === true || ofEnvironment === true;
/** Health, metrics and documents belong to the installation, so X-Environment means nothing to them. */
export const hasEnvironment = ({ needs, ofEnvironment }: Operation): boolean => needs !== 'public' || ofEnvironment === true;
export const requiresBody = ({ body, file }: Operation): boolean => file !== undefined || ((body?.['required'] as string[] | undefined)?.length ?? 0) > 0;
/** Before a resource is created there is nothing to compare with. */
export const honoursIfMatch = (operation: Operation): boolean => operation.versioned === true && isMutation(operation) && operation.status !== 201;
