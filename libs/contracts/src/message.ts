import { Command, Query } from '@nestjs/cqrs';
import Type, { type Static, type TObject, type TProperties, type TSchema } from 'typebox';

/**
 * A message class: it is the wire contract, the command that the domain decides on and the source of the HTTP body's schema.
 * Instances carry exactly the fields; the answer's type travels with the class.
 */
export interface MessageClass<F extends TProperties = TProperties, A extends TSchema = TSchema, M = unknown> {
  new (): M & Static<TObject<F>>;
  readonly subject: string;
  readonly fields: F;
  readonly answer: A;
  /** Passed within one process without a copy; for the hot path only. */
  readonly direct: boolean;
  /** Writes an answer as JSON, faster than `JSON.stringify`. */
  readonly written?: (answer: Static<A>) => string;
}

/** `class AssignLicense extends command('license.assign', { licenseId, customerId }, LicenseView) { readonly type = 'Assign' }` */
export function command<F extends TProperties, A extends TSchema>(subject: string, fields: F, answer: A) {
  return described(Command<Static<A>>, subject, fields, answer) as unknown as MessageClass<F, A, Command<Static<A>>>;
}

export function query<F extends TProperties, A extends TSchema>(subject: string, fields: F, answer: A) {
  return described(Query<Static<A>>, subject, fields, answer) as unknown as MessageClass<F, A, Query<Static<A>>>;
}

function described(Base: new () => object, subject: string, fields: TProperties, answer: TSchema) {
  return class extends Base {
    static readonly subject = subject;
    static readonly fields = fields;
    static readonly answer = answer;
    static readonly direct: boolean = false;
    static readonly written?: (answer: never) => string;
  };
}

/** The fields of a message that come from the body: all but those that come from the path or the server. */
export function bodyOf<F extends TProperties>(message: { readonly fields: F }, ...elsewhere: (keyof F & string)[]): TObject {
  const own = Object.entries(message.fields).filter(([name]) => !elsewhere.includes(name));
  return Type.Object(Object.fromEntries(own), { additionalProperties: false });
}
