import { Ajv, type Options } from 'ajv';
import addFormats from 'ajv-formats';
import type { FastifySchemaCompiler } from 'fastify';

const strict: Options = { allErrors: true, coerceTypes: false, removeAdditional: false, useDefaults: false, strict: false };

/** Ajv refuses and never mends: no coercion in bodies, no silently dropped fields. A query is text, so there `25` may become 25 and `a` may become [a]. */
export function validatorCompiler(): FastifySchemaCompiler<object> {
  const body = withFormats(new Ajv(strict));
  const query = withFormats(new Ajv({ ...strict, coerceTypes: 'array' }));
  return ({ schema, httpPart }) => (httpPart === 'querystring' ? query : body).compile(schema);
}

function withFormats(ajv: Ajv): Ajv {
  addFormats.default(ajv, ['date-time', 'email', 'uri']);
  return ajv;
}
