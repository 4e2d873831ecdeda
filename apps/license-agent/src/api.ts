import type { Enforcement, FeatureState } from '@keyledger/sdk';

/** The agent's answers, and all its refusals. The page under `src/page` depends on this file alone. */

export type RuntimeState = 'normal' | 'dp_core_exceeded' | 'restricted';

/** `GET /api/license`; also the answer of calls that change something, and of a dry run for the license given. Instants are RFC 3339 UTC. */
export interface LicenseAnswer {
  readonly serialNumber: string | null;
  /** Name, else id. Only license files say it. */
  readonly customer: string | null;
  readonly effectiveDate: string | null;
  /** Null: never. */
  readonly expirationDate: string | null;
  /** The quota `max_dp_cores`. */
  readonly maxDpCores: number | null;
  /** Name → true, a cap, or `{limit, per, used, remaining}`. */
  readonly features: Readonly<Record<string, FeatureState>>;
  readonly deploymentId: string | null;
  /** Null before the terms are known: a key that is only tried has none yet. `type`, `validationMode` and `serialNumber` are null then, too. */
  readonly freeTrial: boolean | null;
  readonly runtimeState: RuntimeState;
  readonly enforcement: Enforcement;
  /** `none` without a license; `grace`: it works, but a grace is running. */
  readonly status: 'none' | 'active' | 'grace' | 'restricted' | 'expired' | 'suspended' | 'inactive' | 'revoked' | 'locked';
  readonly type: 'trial' | 'time-based' | 'lifetime' | null;
  readonly mode: string;
  /** Whole days, at least 0; null: it never expires. */
  readonly daysRemaining: number | null;
  readonly usage: readonly MeterAnswer[];
  /** When the last signed answer about the license was received. */
  readonly lastValidationAt: string | null;
  readonly validationMode: 'online' | 'heartbeat' | 'offline' | null;
  readonly deploymentMode: string | null;
  readonly activationId: string | null;
  readonly installationId: string;
  readonly hardwareId: string;

  /** By license key from a server, or by a license file. */
  readonly source: 'key' | 'file' | null;
  /** The first letters of the license key. */
  readonly keyPrefix: string | null;
  readonly licenseId: string | null;
  readonly productId: string | null;
  /** The reasons: the first as a code, all as codes, and a text for people. `VALID` when all is well. */
  readonly code: string;
  readonly reasons: readonly string[];
  readonly detail: string;
  /** The earliest end of the running graces. */
  readonly graceEndsAt: string | null;
  /** When it locks unless the server is reached before, and how long that is; null: never. */
  readonly offlineGraceEndsAt: string | null;
  readonly offlineGraceSeconds: number | null;
  /** -1 is unlimited. */
  readonly activationLimit: number | null;
  readonly activeActivations: number | null;
  readonly server: { readonly url: string | null; readonly environment: string; readonly proxy: string | null; /** Hosts for which the proxy is not used. */ readonly noProxy: string | null; /** Null before it was tried. */ readonly reachable: boolean | null; /** Changes arrive as they happen. */ readonly connected: boolean };
  readonly file: { readonly path: string; /** Last read at. */ readonly checkedAt: string | null } | null;
  /** Problems to look at, the gravest first. */
  readonly problems: readonly ProblemAnswer[];
  /** From the vendor, newest first. */
  readonly messages: readonly { readonly id: string; readonly text: string; readonly at: string }[];
  /** Readings that have not been delivered yet. */
  readonly usageQueued: number;
  /** The rights of the token: `viewer` may read, and change nothing. */
  readonly access: Access;
  /** False for a dry run. */
  readonly applied: boolean;
  readonly agentVersion: string;
  /** By the license's own clock. */
  readonly now: string;
}

export type Access = 'full' | 'viewer';

export interface MeterAnswer {
  readonly meter: string;
  readonly limit: number | null;
  readonly used: number | null;
  readonly remaining: number | null;
  readonly per: 'day' | 'month' | null;
  /** The value it was last compared with, of a day that is over; null: not known. */
  readonly lastPeak: number | null;
  readonly state: 'normal' | 'exceeded' | 'restricted';
  readonly graceEndsAt: string | null;
}

export interface ProblemAnswer {
  readonly code: string;
  readonly severity: 'error' | 'warning' | 'info';
  readonly title: string;
  readonly detail: string;
  /** Since when. */
  readonly at: string;
}

/** `GET /api/enforcement`. */
export interface EnforcementAnswer {
  readonly enforcement: Enforcement;
  readonly reasons: readonly string[];
  readonly graceEndsAt: string | null;
}

/** `GET /api/features/:name`. */
export interface FeatureAnswer {
  readonly name: string;
  readonly enabled: boolean;
  readonly limit: number | null;
  readonly per: 'day' | 'month' | null;
  readonly used: number | null;
  readonly remaining: number | null;
}

/** `GET /api/license/request`: the text to send to the vendor from a machine without a network. */
export interface RequestAnswer {
  readonly text: string;
  /** The same text as a QR code: the dark modules as the path of an SVG, in a square of `size` modules. It needs four light ones around it. Null: too long for one. */
  readonly qr: { readonly size: number; readonly path: string } | null;
}

/** `POST /api/usage`: 200, once all readings are on the disk. */
export interface UsageAnswer {
  readonly accepted: number;
  /** Already known by their ids. */
  readonly duplicates: number;
  readonly queued: number;
}

/** The agent's own codes, and the server's that it passes on. Code → status and title. */
export const problems = {
  VALIDATION_FAILED: { status: 400, title: 'The request is not well-formed' },
  MALFORMED_JSON: { status: 400, title: 'The body is not JSON' },
  UNAUTHENTICATED: { status: 401, title: 'The agent token is required' },
  VIEWER_TOKEN: { status: 403, title: 'This token may look, and change nothing' },
  LICENSE_NOT_ASSIGNED: { status: 403, title: 'License not assigned' },
  LICENSE_NOT_YET_EFFECTIVE: { status: 403, title: 'License not yet effective' },
  LICENSE_EXPIRED: { status: 403, title: 'License Expired' },
  LICENSE_INACTIVE: { status: 403, title: 'License Inactive' },
  LICENSE_SUSPENDED: { status: 403, title: 'License Suspended' },
  LICENSE_REVOKED: { status: 403, title: 'License Revoked' },
  NOT_FOUND: { status: 404, title: 'Nothing here' },
  LICENSE_NOT_FOUND: { status: 404, title: 'License not found' },
  METHOD_NOT_ALLOWED: { status: 405, title: 'Method not allowed' },
  ACTIVATION_LIMIT_EXCEEDED: { status: 409, title: 'Limit Exceeded' },
  PRODUCT_MISMATCH: { status: 409, title: 'The license is for another product' },
  DEPLOYMENT_MISMATCH: { status: 409, title: 'The license is for another deployment' },
  DEPLOYMENT_MODE_MISMATCH: { status: 409, title: 'The license is for another deployment mode' },
  FINGERPRINT_MISMATCH: { status: 409, title: 'The license is bound to other hardware' },
  NO_LICENSE: { status: 409, title: 'There is no license here' },
  NO_SERVER: { status: 409, title: 'No license server is configured' },
  BODY_TOO_LARGE: { status: 413, title: 'The body is too large' },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, title: 'Content type not supported' },
  LICENSE_FILE_REFUSED: { status: 422, title: 'The license file is not accepted' },
  LICENSE_FILE_TOO_OLD: { status: 422, title: 'The license file is too old' },
  USAGE_OUT_OF_RANGE: { status: 422, title: 'Usage of the future, or too long ago' },
  LICENSE_UNREADABLE: { status: 422, title: 'Neither a license file nor a license key' },
  INTERNAL: { status: 500, title: 'Something went wrong' },
  NO_OUTBOUND_ACCESS: { status: 502, title: 'The license server cannot be reached' },
  UNTRUSTED_ANSWER: { status: 502, title: 'The answer is not signed by the vendor' },
  LICENSE_REFUSED: { status: 502, title: 'The license server refuses' },
  LICENSE_SERVER_UNAVAILABLE: { status: 503, title: 'The license server cannot answer now' },
  STORAGE_FAILED: { status: 503, title: 'Nothing can be written to the disk' },
  USAGE_QUEUE_FULL: { status: 503, title: 'Too many readings wait to be delivered' },
} as const;
export type ProblemCode = keyof typeof problems;

/** A refusal of one request, answered as RFC 9457. It changes nothing. */
export class Refused extends Error {
  override readonly name = 'Refused';

  constructor(readonly code: ProblemCode, detail?: string, readonly members: Readonly<Record<string, unknown>> = {}) {
    super(detail ?? problems[code].title);
  }
}
