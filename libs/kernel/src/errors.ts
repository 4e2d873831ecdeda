/**
 * Every refusal a caller can meet: code → HTTP status and title. The codes are public API: add, never rename.
 * `npm run docs` prints this table to docs/errors.md.
 */
export const errors = {
  VALIDATION_FAILED: { status: 400, title: 'The request is not well-formed' },
  MALFORMED_JSON: { status: 400, title: 'The body is not JSON' },
  UNAUTHENTICATED: { status: 401, title: 'A valid API key is required' },
  PERMISSION_DENIED: { status: 403, title: 'The API key lacks the permission' },
  ENVIRONMENT_FORBIDDEN: { status: 403, title: 'The API key belongs to another environment' },
  PRODUCTION_CLOCK: { status: 403, title: 'Production lives in real time' },
  LICENSE_NOT_ASSIGNED: { status: 403, title: 'License not assigned' },
  LICENSE_NOT_YET_EFFECTIVE: { status: 403, title: 'License not yet effective' },
  LICENSE_EXPIRED: { status: 403, title: 'License Expired' },
  LICENSE_INACTIVE: { status: 403, title: 'License Inactive' },
  LICENSE_SUSPENDED: { status: 403, title: 'License Suspended' },
  LICENSE_REVOKED: { status: 403, title: 'License Revoked' },
  NOT_FOUND: { status: 404, title: 'Nothing here' },
  ENVIRONMENT_NOT_FOUND: { status: 404, title: 'Environment not found' },
  LICENSE_NOT_FOUND: { status: 404, title: 'License not found' },
  INSTANCE_NOT_FOUND: { status: 404, title: 'Instance not found' },
  PRODUCT_NOT_FOUND: { status: 404, title: 'Product not found' },
  PLAN_NOT_FOUND: { status: 404, title: 'Plan not found' },
  CUSTOMER_NOT_FOUND: { status: 404, title: 'Customer not found' },
  ORDER_NOT_FOUND: { status: 404, title: 'Order not found' },
  GENERATOR_NOT_FOUND: { status: 404, title: 'Generator not found' },
  API_KEY_NOT_FOUND: { status: 404, title: 'API key not found' },
  SIGNING_KEY_NOT_FOUND: { status: 404, title: 'Signing key not found' },
  JOB_NOT_FOUND: { status: 404, title: 'Job not found' },
  WEBHOOK_ENDPOINT_NOT_FOUND: { status: 404, title: 'Webhook endpoint not found' },
  WEBHOOK_DELIVERY_NOT_FOUND: { status: 404, title: 'Webhook delivery not found' },
  METHOD_NOT_ALLOWED: { status: 405, title: 'Method not allowed' },
  REQUEST_TIMEOUT: { status: 408, title: 'The request took too long to arrive' },
  ACTIVATION_LIMIT_EXCEEDED: { status: 409, title: 'Limit Exceeded' },
  PRODUCT_MISMATCH: { status: 409, title: 'The license is for another product' },
  DEPLOYMENT_MISMATCH: { status: 409, title: 'The license is for another deployment' },
  DEPLOYMENT_MODE_MISMATCH: { status: 409, title: 'The license is for another deployment mode' },
  FINGERPRINT_MISMATCH: { status: 409, title: 'The license is bound to other hardware' },
  STALE_SEQUENCE: { status: 409, title: 'A later heartbeat has been seen' },
  INVALID_TRANSITION: { status: 409, title: 'Not possible in this state' },
  TERMINAL_STATE: { status: 409, title: 'The license is revoked for good' },
  LICENSE_EVER_ACTIVATED: { status: 409, title: 'The license has been activated before' },
  PRODUCT_ARCHIVED: { status: 409, title: 'The product is archived' },
  PRODUCT_CODE_TAKEN: { status: 409, title: 'The product code is taken' },
  CUSTOMER_EXISTS: { status: 409, title: 'A customer with this e-mail address exists' },
  SIGNING_KEY_NOT_CERTIFIED: { status: 409, title: 'The signing key has no certificate yet' },
  JOB_NOT_FINISHED: { status: 409, title: 'The job has no result yet' },
  WEBHOOK_ENDPOINT_DISABLED: { status: 409, title: 'The webhook endpoint is disabled' },
  IDEMPOTENCY_IN_PROGRESS: { status: 409, title: 'The same request is still being worked on' },
  KEYS_ALREADY_DOWNLOADED: { status: 410, title: 'The keys of a batch can be downloaded once' },
  VERSION_CONFLICT: { status: 412, title: 'Changed in the meantime' },
  BODY_TOO_LARGE: { status: 413, title: 'The body is too large' },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, title: 'Content type not supported' },
  LIMIT_OUT_OF_RANGE: { status: 422, title: 'The activation limit must be -1 or 1 to 10000' },
  EXPIRY_IN_PAST: { status: 422, title: 'The end must be in the future' },
  EXPIRY_NOT_LATER: { status: 422, title: 'A renewal must end later' },
  TRIAL_TOO_LONG: { status: 422, title: 'A trial lasts 90 days at most' },
  METADATA_TOO_LARGE: { status: 422, title: 'Metadata or feature flags are larger than 10 KB' },
  IMMUTABLE_FIELD: { status: 422, title: 'The field cannot be changed' },
  REFERENCE_NOT_FOUND: { status: 422, title: 'A referenced object does not exist' },
  KEY_FORMAT_TOO_WEAK: { status: 422, title: 'Keys of this format could be guessed' },
  USAGE_OUT_OF_RANGE: { status: 422, title: 'Usage of the future, or too long ago' },
  FINGERPRINT_REQUIRED: { status: 422, title: 'A fingerprint is required' },
  INSTANCE_REQUIRED: { status: 422, title: 'The instance must be named' },
  WEBHOOK_URL_REFUSED: { status: 422, title: 'Webhooks are not sent to this address' },
  CERTIFICATE_INVALID: { status: 422, title: 'Not a certificate of this key' },
  CLOCK_BACKWARDS: { status: 422, title: 'A clock is never put back' },
  LICENSE_TOO_LARGE: { status: 422, title: 'The license is too large to be signed' },
  IDEMPOTENCY_KEY_REUSED: { status: 422, title: 'The Idempotency-Key was used for another request' },
  RATE_LIMITED: { status: 429, title: 'Too many requests' },
  HEADERS_TOO_LARGE: { status: 431, title: 'The request headers are too large' },
  INTERNAL: { status: 500, title: 'Something went wrong here' },
  TRY_AGAIN: { status: 503, title: 'Lost too many races' },
  READ_MODEL_BEHIND: { status: 503, title: 'The read model is catching up' },
  UNAVAILABLE: { status: 503, title: 'Temporarily unavailable' },
} as const satisfies Record<string, { status: number; title: string }>;
export type ErrorCode = keyof typeof errors;

export type RefusalMembers = Readonly<Record<string, unknown>>;

/** A "no" with a reason. It survives a network hop: `toJSON` and `Refusal.from` are inverse. Anything else thrown is a bug. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly code: ErrorCode;
  readonly members: RefusalMembers;

  constructor(code: ErrorCode, detail?: string, members: RefusalMembers = {}) {
    super(detail ?? errors[code].title);
    this.code = code;
    this.members = members;
  }

  get status(): number {
    return errors[this.code].status;
  }

  toJSON() {
    return { code: this.code, detail: this.message, members: this.members };
  }

  static from({ code, detail, members }: ReturnType<Refusal['toJSON']>): Refusal {
    return new Refusal(code, detail, members);
  }
}

/** A dependency is unavailable for now; the request itself is not at fault, so it can be retried. */
export const isTransient = (error: unknown): error is Refusal => error instanceof Refusal && error.status === 503;

/** `throw refuse('LIMIT_OUT_OF_RANGE', 'activationLimit is 0')` */
export const refuse = (code: ErrorCode, detail?: string, members?: RefusalMembers): Refusal => new Refusal(code, detail, members);

/** A refusal that names a faulty field of the body: `malformed('quantity', 'must be 1 to 100')`. */
export const malformed = (field: string, detail: string): Refusal => refuse('VALIDATION_FAILED', `${field} ${detail}`, { errors: [{ pointer: `/${field}`, detail }] });
/** The same of the query. */
export const malformedQuery = (field: string, detail: string): Refusal =>
  refuse('VALIDATION_FAILED', `${field} ${detail}`, { errors: [{ in: 'query', pointer: `/${field}`, detail }] });
