import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import addFormats from 'ajv-formats';

type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };
type Described = { readonly [name: string]: Json };

export interface Answer {
  status: number;
  headers: Readonly<Record<string, unknown>>;
  text: string;
}

interface DescribedOperation {
  id: string;
  method: string;
  path: string;
  operation: Described;
}

const at = (document: Json, ...names: readonly string[]): Json | undefined =>
  names.reduce<Json | undefined>((value, name) => (typeof value === 'object' && value !== null ? (value as Described)[name] : undefined), document);
const fieldsOf = (value: Json | undefined): [string, Json][] => (typeof value === 'object' && value !== null ? Object.entries(value) : []);
const textOf = (value: Json | undefined): string => (typeof value === 'string' ? value : '');

/** Judges answers by the OpenAPI document, as it is served. An answer must name no field that the document does not. */
export class Conformance {
  readonly operations: readonly DescribedOperation[];
  /** What has been seen: `getLicense 200`, `getLicense LICENSE_NOT_FOUND`. */
  readonly seen = new Set<string>();
  readonly #ajv = withFormats(new Ajv2020({ strict: false, allErrors: true }));
  readonly #validators = new Map<string, ValidateFunction>();

  constructor(private readonly document: Json) {
    this.operations = fieldsOf(at(document, 'paths')).flatMap(([path, methods]) =>
      fieldsOf(methods).map(([method, operation]) => ({ id: textOf(at(operation, 'operationId')), method: method.toUpperCase(), path, operation: operation as Described })));
    this.#ajv.addSchema({ ...(closed(document) as object), $id: 'api' });
  }

  /** Everything that is wrong with the answer; nothing, if it is as described. */
  faults(method: string, url: string, answer: Answer): string[] {
    const { status, headers, text } = answer;
    const faults = this.#leaks(text);
    if (typeof headers['request-id'] !== 'string') faults.push('no Request-Id');
    if ((status === 429 || status === 503) && !/^\d+$/.test(String(headers['retry-after'] ?? ''))) faults.push('no Retry-After');
    const described = this.#operationAt(method === 'HEAD' ? 'GET' : method, url);
    if (described) faults.push(...this.#answerFaults(described, method, answer));
    else if (!url.startsWith('/docs') && method !== 'OPTIONS') faults.push(...this.#problemFaults(answer, ['NOT_FOUND', 'METHOD_NOT_ALLOWED', 'VALIDATION_FAILED', 'HEADERS_TOO_LARGE']));
    if (status >= 400) faults.push(...this.#problemFaults(answer));
    return faults.map((fault) => `${method} ${url.slice(0, 200)} ${status}: ${fault}\n${text.slice(0, 500)}`);
  }

  /** What a validator of OpenAPI would find. */
  documentFaults(): string[] {
    const ids = this.operations.map(({ id }) => id);
    return [
      ...(/^3\.1\.\d+$/.test(textOf(at(this.document, 'openapi'))) ? [] : ['openapi is not 3.1.x']),
      ...['title', 'version'].filter((name) => !textOf(at(this.document, 'info', name))).map((name) => `info.${name} is missing`),
      ...ids.filter((id, n) => !/^[a-z][A-Za-z]+$/.test(id) || ids.indexOf(id) !== n).map((id) => `operationId "${id}" is not a name or not unique`),
      ...references(this.document).filter((reference) => this.#resolve(reference) === undefined).map((reference) => `${reference} leads nowhere`),
      ...this.operations.flatMap((operation) => this.#operationFaults(operation)),
    ];
  }

  #operationFaults({ id, path, operation }: DescribedOperation): string[] {
    const parameters = (operation['parameters'] as readonly Json[]).map((parameter) => this.#resolved(parameter));
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    const declared = parameters.filter((parameter) => at(parameter, 'in') === 'path').map((parameter) => at(parameter, 'name'));
    const names = parameters.map((parameter) => `${at(parameter, 'in')} ${at(parameter, 'name')}`);
    const responses = fieldsOf(operation['responses']);
    return [
      ...(JSON.stringify(inPath) === JSON.stringify(declared) ? [] : ['its path parameters are not those of its path']),
      ...(new Set(names).size === names.length ? [] : ['a parameter is declared twice']),
      ...parameters.filter((parameter) => at(parameter, 'in') === 'path' && at(parameter, 'required') !== true).map(() => 'a path parameter is not required'),
      ...(Array.isArray(operation['security']) ? [] : ['nothing is said about security']),
      ...(textOf(operation['summary']) ? [] : ['no summary']),
      ...(responses.some(([status]) => status.startsWith('2')) ? [] : ['no success']),
      ...responses.filter(([, response]) => !textOf(at(response, 'description'))).map(([status]) => `${status} has no description`),
      ...[...this.#contents(operation)].flatMap(([where, content]) => this.#exampleFaults(where, content)),
    ].map((fault) => `${id}: ${fault}`);
  }

  *#contents(operation: Described): Iterable<[string, Json]> {
    for (const [type, content] of fieldsOf(at(operation, 'requestBody', 'content'))) yield [`request ${type}`, content];
    for (const [status, response] of fieldsOf(operation['responses'])) for (const [type, content] of fieldsOf(at(response, 'content'))) yield [`${status} ${type}`, content];
  }

  #exampleFaults(where: string, content: Json): string[] {
    const schema = at(content, 'schema');
    if (schema === undefined) return [`${where} has no schema`];
    const example = at(content, 'example');
    if (example === undefined) return [];
    const validate = this.#ajv.compile({ ...(closed(absolute(schema)) as object) });
    return validate(example) ? [] : [`the example of ${where}: ${told(validate)}`];
  }

  #answerFaults({ id, path, method: own, operation }: DescribedOperation, method: string, { status, headers, text }: Answer): string[] {
    const described = status === 408 || status === 431 ? 'default' : String(status);
    const response = at(operation, 'responses', described);
    const code = status >= 400 && method !== 'HEAD' ? textOf(at(JSON.parse(text || 'null') as Json, 'code')) : '';
    this.seen.add(`${id} ${code || status}`);
    if (response === undefined) return [`${status} ${code} is not described`];
    const missing = fieldsOf(at(response, 'headers')).filter(([name, header]) => at(this.#resolved(header), 'required') === true && headers[name.toLowerCase()] === undefined);
    const type = String(headers['content-type'] ?? '').split(';')[0] ?? '';
    const content = at(response, 'content');
    const faults = missing.map(([name]) => `the header ${name} is missing`);
    if (content === undefined) return text === '' ? faults : [...faults, 'a body that is not described'];
    if (at(content, type) === undefined) return [...faults, `the content type ${type} is not described`];
    if (method === 'HEAD' || !type.endsWith('json')) return faults;
    const validate = this.#validatorOf(['paths', path, own.toLowerCase(), 'responses', described, 'content', type, 'schema']);
    return validate(JSON.parse(text)) ? faults : [...faults, told(validate)];
  }

  #problemFaults({ status, headers, text }: Answer, codes?: readonly string[]): string[] {
    if (text === '') return [];
    if (!String(headers['content-type']).startsWith('application/problem+json')) return ['not application/problem+json'];
    const problem = JSON.parse(text) as Described;
    const validate = this.#validatorOf(['components', 'schemas', 'Problem']);
    return [
      ...(validate(problem) ? [] : [told(validate)]),
      ...(problem['status'] === status ? [] : ['its status is another one']),
      // An answer that is given again is the first one, to the letter.
      ...(problem['requestId'] === headers['request-id'] || headers['idempotency-replayed'] ? [] : ['its requestId is another one']),
      ...(problem['type'] === `/docs/errors#${textOf(problem['code'])}` ? [] : ['its type is another one']),
      ...(codes && !codes.includes(textOf(problem['code'])) ? [`${textOf(problem['code'])} is not a code for what is not there`] : []),
    ];
  }

  /** Nothing of the inside: no stack, no SQL, no file. */
  #leaks(text: string): string[] {
    return /\bat [\w.<>]+ \(|node_modules|node:internal|\.ts:\d|SQLITE_|\bselect .+ from\b|\bsyntax error\b/i.test(text) ? ['shows the inside'] : [];
  }

  #operationAt(method: string, url: string): DescribedOperation | undefined {
    const [path = ''] = url.split('?', 1);
    const fits = (pattern: string) => new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]*')}$`).test(path);
    const found = this.operations.filter((operation) => operation.method === method && fits(operation.path));
    return found.find((operation) => operation.path === path) ?? found[0];
  }

  #validatorOf(names: readonly string[]): ValidateFunction {
    const pointer = names.map((name) => encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'))).join('/');
    let validate = this.#validators.get(pointer);
    if (!validate) this.#validators.set(pointer, (validate = this.#ajv.compile({ $ref: `api#/${pointer}` })));
    return validate;
  }

  #resolve(reference: string): Json | undefined {
    return at(this.document, ...reference.replace('#/', '').split('/').map((name) => name.replaceAll('~1', '/').replaceAll('~0', '~')));
  }

  #resolved(value: Json): Json {
    const reference = at(value, '$ref');
    return typeof reference === 'string' ? (this.#resolve(reference) ?? null) : value;
  }
}

const told = ({ errors }: ValidateFunction): string =>
  (errors ?? []).map(({ instancePath, message, params }) => `${instancePath || 'it'} ${message} ${JSON.stringify(params)}`).slice(0, 20).join(', ');

function withFormats(ajv: Ajv2020): Ajv2020 {
  addFormats.default(ajv, ['date-time', 'email', 'uri', 'uri-reference']);
  return ajv;
}

function references(value: Json): string[] {
  return fieldsOf(value).flatMap(([name, child]) => (name === '$ref' && typeof child === 'string' ? [child] : references(child)));
}

/** With references that work from anywhere. */
const absolute = (schema: Json): Json => JSON.parse(JSON.stringify(schema).replaceAll('"$ref":"#/', '"$ref":"api#/')) as Json;

/** Objects have the fields that are named and no others, but for problems, whose further members depend on the code. */
function closed(value: Json, isProblem = false): Json {
  if (Array.isArray(value)) return value.map((item) => closed(item as Json, isProblem));
  if (typeof value !== 'object' || value === null) return value;
  const fields = Object.fromEntries(fieldsOf(value).map(([name, child]) => [name, closed(child, isProblem || name === 'Problem' || name === 'allOf')]));
  return fields['type'] === 'object' && 'properties' in fields && !('additionalProperties' in fields) && !isProblem ? { ...fields, additionalProperties: false } : fields;
}
