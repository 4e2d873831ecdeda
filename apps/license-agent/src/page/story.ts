import type { LicenseAnswer, MeterAnswer } from '../api.ts';
import type { Failure } from './client.ts';
import { age, capital, count, date, daysUntil, labelled, moment, number, plain, time, type Tone } from './words.ts';

/** The content of the page about a license. Pure functions of the agent's answers, without the document. */

export interface Stated {
  readonly tone: Tone;
  readonly text: string;
  readonly note?: string;
}
export interface Banner {
  readonly tone: Tone;
  readonly title: string;
  readonly text: string;
}

const statuses: Record<LicenseAnswer['status'], readonly [Tone, string]> = {
  none: ['none', 'No license'],
  active: ['ok', 'Active'],
  grace: ['warn', 'Active, in grace'],
  restricted: ['stop', 'Restricted'],
  expired: ['stop', 'Expired'],
  suspended: ['stop', 'Suspended'],
  inactive: ['stop', 'Inactive'],
  revoked: ['stop', 'Revoked'],
  locked: ['stop', 'Locked'],
};
const runtimes = { normal: ['ok', 'Normal'], dp_core_exceeded: ['warn', 'DP Core Exceeded'], restricted: ['stop', 'Restricted'] } as const;

const stated = ([tone, text]: readonly [Tone, string], note?: string): Stated => ({ tone, text, ...(note && { note }) });

export const statusOf = ({ status }: LicenseAnswer): Stated => stated(statuses[status] ?? ['info', plain(status)]);
export const runtimeOf = ({ runtimeState }: LicenseAnswer): Stated => stated(runtimes[runtimeState] ?? ['info', plain(runtimeState)]);

export function expiryOf({ expirationDate }: LicenseAnswer): { readonly text: string; readonly note: string } {
  return expirationDate === null ? { text: 'Never', note: 'A lifetime license' } : { text: date(expirationDate), note: `at ${time(expirationDate)}` };
}

/** Not with a viewer's token. */
export const mayAct = ({ access }: LicenseAnswer): boolean => access !== 'viewer';

export const typeOf = ({ type, freeTrial }: LicenseAnswer): string => (freeTrial ? 'Trial' : type === null ? 'Unknown' : capital(type));
export const modeOf = (mode: string | null): string => (mode === null ? 'Not set' : /^on[-_ ]?prem/i.test(mode) ? 'On-premises' : plain(mode));

// ---- banners ----

const upload = 'reads continue, writes blocked, you can still upload a license';
const gravity: Record<Tone, number> = { stop: 0, warn: 1, info: 2, ok: 3, none: 4 };
const toneOf = { error: 'stop', warning: 'warn', info: 'info' } as const;

/** The page has a whole section for it. */
const saidElsewhere = ['NO_LICENSE', 'NOT_ACTIVATED'];

/** Messages the user should know or act on, the gravest first. */
export function bannersOf(license: LicenseAnswer): Banner[] {
  const own = license.status === 'none' ? [] : [...standing(license), ...graces(license), ...expiring(license)];
  const told = new Set([...saidElsewhere, ...own.flatMap(({ codes }) => codes)]);
  const others = license.problems.filter(({ code }) => !told.has(code)).map(({ code, severity, title, detail }): Banner => {
    const stays = license.source !== null && code.startsWith('LICENSE_FILE_') ? '. The license in use was not changed.' : '';
    return { tone: toneOf[severity], title, text: `${detail}${stays}` };
  });
  const messages = license.messages.map(({ text, at }): Banner => ({ tone: 'info', title: 'Message from your vendor', text: `${text} (${moment(at)})` }));
  return [...own.map(({ tone, title, text }) => ({ tone, title, text })), ...others, ...messages].sort((a, b) => gravity[a.tone] - gravity[b.tone]);
}

/** `codes`: the agent's codes for the same problem. */
type Own = Banner & { readonly codes: readonly string[] };

function* standing(license: LicenseAnswer): Generator<Own> {
  const { status, enforcement, expirationDate, reasons, detail, usage } = license;
  const blocked = enforcement === 'LOCKED' ? 'the product is locked, you can still upload a license' : upload;
  if (status === 'expired') {
    yield { tone: 'stop', title: 'License Expired', text: `${expirationDate === null ? 'It has ended' : `It ended on ${date(expirationDate)}`}: ${blocked}.`, codes: ['EXPIRED', 'LICENSE_EXPIRED'] };
  } else if (reasons.includes('RESTRICTED')) {
    const over = new Intl.ListFormat().format(usage.filter(({ state }) => state !== 'normal').map(({ meter }) => meterName(meter)));
    yield { tone: 'stop', title: 'Restricted', text: `More was used than is licensed${over && ` (${over})`}, for longer than the grace: ${blocked}. Use less, or install a larger license.`, codes: ['RESTRICTED', 'QUOTA_EXCEEDED'] };
  } else if (enforcement === 'READ_ONLY' || enforcement === 'LOCKED') {
    yield { tone: 'stop', title: statusOf(license).text, text: `${detail}: ${blocked}.`, codes: [license.code] };
  }
}

/** A meter over its licensed limit, within the grace. The number shown is the one compared, if known. */
function exceeding({ meter, limit, per, lastPeak, graceEndsAt: end }: MeterAnswer, now: string): Own {
  const [isCores, name] = [isCoreMeter(meter), meterName(meter)];
  const title = isCores ? 'DP Core Exceeded' : `${name} exceeded`;
  const compared = per === null ? 'The last daily peak' : `The count of the ${per === 'day' ? 'last day' : 'month'}`;
  const over = limit === null || lastPeak === null || lastPeak <= limit ? `More was used than is licensed (${name}${limit === null ? '' : `, ${limitOf(limit)}`})`
    : `${compared} was ${isCores ? count(lastPeak, 'DP core') : number(lastPeak)}; ${number(limit)} are licensed`;
  const then = `Use ${isCores ? 'fewer cores' : 'less'}, or install a larger license${end === null ? '' : ` by ${moment(end)}`}; after that writes are blocked.`;
  return { tone: 'warn', title: end === null ? title : `${title}: ${count(daysUntil(end, now), 'day')} left`, text: `${over}. ${then}`, codes: ['QUOTA_EXCEEDED', 'DP_CORE_EXCEEDED'] };
}

function* graces({ source, usage, problems, reasons, offlineGraceEndsAt, graceEndsAt, lastValidationAt, server, enforcement, now }: LicenseAnswer): Generator<Own> {
  const left = (end: string) => `${count(daysUntil(end, now), 'day')} left`;
  for (const one of usage) if (one.state === 'exceeded') yield exceeding(one, now);
  if (reasons.includes('IN_EXPIRY_GRACE')) {
    yield { tone: 'warn', title: graceEndsAt === null ? 'License Expired, within its grace' : `License Expired, grace: ${left(graceEndsAt)}`, text: 'Everything still works. Renew the license before the grace ends; after that writes are blocked.', codes: ['IN_EXPIRY_GRACE'] };
  }
  const isThere = problems.some(({ code }) => code === 'LICENSE_SERVER_UNAVAILABLE');
  const why = isThere ? 'The license server cannot answer now' : 'The license server cannot be reached';
  const codes = isThere ? ['LICENSE_SERVER_UNAVAILABLE'] : ['NO_OUTBOUND_ACCESS', 'UNREACHABLE'];
  const unheard = lastValidationAt === null ? '' : ` It was last heard of ${age(lastValidationAt, now)}.`;
  if (source === 'file' && reasons.includes('IN_OFFLINE_GRACE') && offlineGraceEndsAt !== null) {
    yield { tone: 'warn', title: `License file: ${left(offlineGraceEndsAt)}`, text: `No license server is asked about this license, so its file is good until ${moment(offlineGraceEndsAt)}. The product locks then, unless a newer file is installed before.`, codes: ['IN_OFFLINE_GRACE'] };
  } else if (reasons.includes('IN_OFFLINE_GRACE') && offlineGraceEndsAt !== null && enforcement !== 'LOCKED') {
    yield { tone: 'warn', title: `Offline grace: ${left(offlineGraceEndsAt)}`, text: `${why}.${unheard} The product goes on working until ${moment(offlineGraceEndsAt)}, and locks then unless the server is reached before.`, codes: ['IN_OFFLINE_GRACE', ...codes] };
  } else if (server.reachable === false) {
    yield { tone: 'warn', title: why, text: `This is the last known state.${unheard}`, codes };
  }
}

/** The reminders of 30, 14 and 7 days before. */
function* expiring(license: LicenseAnswer): Generator<Own> {
  const { status, daysRemaining, expirationDate, reasons } = license;
  if (status === 'expired' || status === 'revoked' || reasons.includes('IN_EXPIRY_GRACE') || daysRemaining === null || expirationDate === null || daysRemaining > 30) return;
  const tone = daysRemaining <= 7 ? 'stop' : daysRemaining <= 14 ? 'warn' : 'info';
  yield { tone, title: `License expires in ${count(daysRemaining, 'day')}`, text: `It ends on ${moment(expirationDate)}. Ask your vendor for a renewal${mayAct(license) ? ' and enter it under Change license' : ''}.`, codes: ['EXPIRING'] };
}

/** How fresh the shown state is, and if it is not, why. `seenAt`: when the agent reported it. */
export function freshnessOf(license: LicenseAnswer, seenAt: string, now: string, failure: Failure | null): string {
  if (failure) return `Last known state, from ${age(seenAt, now)} (${moment(seenAt)}): ${failure.title.charAt(0).toLowerCase()}${failure.title.slice(1)}.`;
  if (license.server.reachable === false && license.lastValidationAt !== null) return `Last known state, from ${age(license.lastValidationAt, license.now)} (${moment(license.lastValidationAt)}): the license server ${license.problems.some(({ code }) => code === 'LICENSE_SERVER_UNAVAILABLE') ? 'cannot answer now' : 'cannot be reached'}.`;
  return `Up to date as of ${moment(seenAt)}.`;
}

// ---- usage ----

export interface Meter {
  readonly label: string;
  readonly tone: Tone;
  readonly text: string;
  readonly note: string;
  /** 0 to 1; null: there is no limit to fill. */
  readonly share: number | null;
}

const coreMeters = /^(max_)?dp_cores$/;
const isCoreMeter = (meter: string): boolean => coreMeters.test(meter);
const meterNames: readonly (readonly [RegExp, string])[] = [
  [coreMeters, 'DP cores'],
  [/^(max_)?(servers|server_count|servers_allocated)$/, 'Servers allocated'],
  [/^(max_)?(users|user_count|seats)$/, 'Users vs limit'],
];
const meterName = (meter: string): string => meterNames.find(([pattern]) => pattern.test(meter))?.[1] ?? plain(meter);
const limitOf = (limit: number | null): string => (limit === null || limit < 0 ? 'Unlimited' : number(limit));

/** The meters of every license, limited or not, and then its own. */
export function metersOf(license: LicenseAnswer): Meter[] {
  const named = labelled(license.usage.map((meter) => [meter.meter, meter]), meterName);
  const seats = meter('Active activations', license.activeActivations, license.activationLimit, 'normal', license.activeActivations === null ? 'Known to the license server' : 'of this license, on all machines');
  const always = ['Servers allocated', 'Users vs limit', 'DP cores'].map((label) => {
    const one = named.get(label);
    return one ? metered(label, one, license.now) : { label, tone: 'ok', text: 'Not limited', note: 'This license sets no limit', share: null } as const;
  });
  return [...always, seats, ...[...named].filter(([label]) => !always.some((one) => one.label === label)).map(([label, one]) => metered(label, one, license.now))];
}

function metered(label: string, { used, limit, per, lastPeak, state, graceEndsAt }: MeterAnswer, now: string): Meter {
  const grace = graceEndsAt === null ? '' : `, ${count(daysUntil(graceEndsAt, now), 'day')} of grace left`;
  const each = per === null || label.endsWith(`per ${per}`) ? '' : ` per ${per}`;
  const note = { normal: per === null && lastPeak !== null ? `Last daily peak: ${number(lastPeak)}` : '', exceeded: `Exceeded${grace}`, restricted: 'Restricted: writes are blocked' }[state];
  return meter(`${label}${each}`, used, limit, state, note);
}

function meter(label: string, used: number | null, limit: number | null, state: MeterAnswer['state'], note: string): Meter {
  const bounded = limit !== null && limit >= 0;
  const share = bounded && used !== null ? (limit === 0 ? Number(used > 0) : Math.min(1, used / limit)) : null;
  const tone = state === 'restricted' ? 'stop' : state === 'exceeded' ? 'warn' : 'ok';
  const text = `${used === null ? 'Not reported' : number(used)}${bounded || used !== null ? ` of ${bounded ? number(limit) : 'unlimited'}` : ''}`;
  return { label, tone, text, note: note || (share === null || used === null || limit === null ? '' : `${number(Math.max(0, limit - used))} left`), share };
}

export const coreQuotaOf = ({ maxDpCores }: LicenseAnswer): string => (maxDpCores === null ? 'Not limited' : count(maxDpCores, 'DP core'));
export const activationLimitOf = ({ activationLimit }: LicenseAnswer): string => (activationLimit === null ? 'Not known' : limitOf(activationLimit));

// ---- features ----

export interface Feature {
  readonly label: string;
  readonly value: string;
  readonly included: boolean;
}

const featureNames: readonly (readonly [RegExp, string])[] = [
  [/^(max_)?(api_?endpoints|endpoints)$/, 'API endpoints'],
  [/^(max_)?executions(_per_day)?$/, 'Executions per day'],
  [/^(reporting|reports)$/, 'Reporting'],
  [/^(mocks|mocking|mock_servers)$/, 'Mocks'],
  [/^(ci_?cd|ci)$/, 'CI/CD'],
  [/^analytics$/, 'Analytics'],
  [/^workflows?$/, 'Workflows'],
  [/^(test_)?execution$/, 'Execution'],
];
const featureName = (name: string): string => featureNames.find(([pattern]) => pattern.test(name.toLowerCase().replaceAll(/[ .-]+/g, '_')))?.[1] ?? plain(name);

function valueOf(feature: LicenseAnswer['features'][string] | undefined, withUse: boolean): string {
  if (!feature) return 'Not included';
  if (feature === true) return 'Included';
  if (typeof feature === 'number') return feature < 0 ? 'Unlimited' : `Up to ${number(feature)}`;
  const used = withUse && 'used' in feature && feature.used !== undefined ? `, ${number(feature.used)} used` : '';
  return `${number(feature.limit)} per ${feature.per}${used}`;
}

/** The features of this product, in the order of its price list, and then others that this license names. */
export function featuresOf({ features }: LicenseAnswer, { withUse = true } = {}): Feature[] {
  const named = labelled(Object.entries(features), featureName);
  const labels = new Set([...featureNames.map(([, label]) => label), ...named.keys()]);
  return [...labels].map((label) => ({ label, value: valueOf(named.get(label), withUse), included: Boolean(named.get(label)) }));
}

// ---- details ----

export interface Detail {
  readonly label: string;
  readonly value: string;
  /** The text to copy, if it is not the text shown; null: there is nothing to copy. */
  readonly copy: string | null;
  /** The environment variable that it comes from. */
  readonly variable?: string;
}

const detail = (label: string, value: string | null, otherwise = 'None'): Detail => ({ label, value: value ?? otherwise, copy: value });
const instant = (label: string, value: string | null, otherwise: string): Detail => ({ label, value: value === null ? otherwise : moment(value), copy: value });

export function detailsOf(license: LicenseAnswer): Detail[] {
  const { lastValidationAt, now } = license;
  return [
    { label: 'Last validation timestamp', value: lastValidationAt === null ? 'Never' : `${moment(lastValidationAt)} (${age(lastValidationAt, now)})`, copy: lastValidationAt },
    { label: 'Validation mode', value: modeOf(license.validationMode), copy: license.validationMode },
    { label: 'Deployment mode', value: modeOf(license.deploymentMode), copy: license.deploymentMode },
    detail('Activation ID', license.activationId),
    detail('Installation ID', license.installationId),
    detail('Hardware ID', license.hardwareId),
    detail('Serial number', license.serialNumber),
    detail('Customer', license.customer, 'Not named'),
    detail('Key in use', license.keyPrefix === null ? null : `${license.keyPrefix}…`, license.source === 'file' ? 'By license file' : 'None'),
    instant('Effective date', license.effectiveDate, 'At once'),
    detail('Deployment ID', license.deploymentId, 'Not bound'),
    { label: 'Free trial', value: license.freeTrial === null ? 'Not known' : license.freeTrial ? 'Yes' : 'No', copy: license.freeTrial === null ? null : String(license.freeTrial) },
  ];
}

export function connectionOf({ server, file }: LicenseAnswer): Detail[] {
  const reach = { true: server.connected ? 'Connected, changes arrive as they happen' : 'Reachable', false: 'Cannot be reached', null: 'Not tried yet' }[String(server.reachable) as 'true' | 'false' | 'null'];
  return [
    { ...detail('Server URL', server.url, 'Not set'), variable: 'KEYLEDGER_SERVER_URL' },
    { label: 'Connection', value: server.url === null ? 'Works without a server' : reach, copy: null },
    { ...detail('Environment', server.environment), variable: 'KEYLEDGER_ENVIRONMENT' },
    { ...detail('Proxy', server.proxy, 'None'), variable: 'HTTPS_PROXY' },
    { ...detail('Without proxy', server.noProxy ?? null, 'None'), variable: 'NO_PROXY' },
    { ...detail('License file', file?.path ?? null, 'None'), variable: 'LICENSE_FILE_PATH' },
  ];
}

/** All that a support person needs, in one paste; it contains no secret. */
export function supportTextOf(license: LicenseAnswer, seenAt: string): string {
  const lines: readonly (readonly [string, string])[] = [
    ['Status', `${license.status} (${license.code}, ${license.enforcement})`], ['Reasons', license.reasons.join(', ') || 'none'], ['Type', typeOf(license)], ['Mode', license.mode],
    ['Expires', license.expirationDate ?? 'never'], ['Runtime state', license.runtimeState], ['License ID', license.licenseId ?? 'none'], ['Product ID', license.productId ?? 'none'],
    ...[...detailsOf(license), ...connectionOf(license)].map(({ label, value, copy }) => [label, copy ?? value] as const),
    ...metersOf(license).map(({ label, text }) => [label, text] as const), ...license.problems.map(({ code, at, detail }) => [`Problem ${code}`, `${detail} (since ${at})`] as const),
    ['Agent', license.agentVersion], ['As of', seenAt],
  ];
  return lines.map(([label, value]) => `${label}: ${value}`).join('\n');
}

// ---- a new license ----

export interface Change {
  readonly label: string;
  readonly before: string;
  readonly after: string;
}

const factsOf = (license: LicenseAnswer): Map<string, string> => new Map([
  ['License ID', license.licenseId ?? 'None'], ['Status', statusOf(license).text], ['Type', license.status === 'none' ? 'None' : typeOf(license)], ['Customer', license.customer ?? 'Not named'], ['Serial number', license.serialNumber ?? 'None'],
  ['Key', license.keyPrefix === null ? 'None' : `${license.keyPrefix}…`], ['Effective date', license.effectiveDate === null ? 'At once' : date(license.effectiveDate)],
  ['Expires', license.status === 'none' ? 'None' : expiryOf(license).text], ['Max DP cores', coreQuotaOf(license)], ['Activation limit', activationLimitOf(license)],
  ['Deployment ID', license.deploymentId ?? 'Not bound'], ['Deployment mode', modeOf(license.deploymentMode)], ['Validation mode', modeOf(license.validationMode)],
]);
/** A cap of a feature is told with the feature, unless a quota makes it stricter. */
function limitsOf({ usage, features }: LicenseAnswer): Map<string, string> {
  const caps = new Map(Object.entries(features).map(([name, feature]) => [name, typeof feature === 'object' ? feature.limit : undefined]));
  const limits = usage.filter(({ meter, limit }) => meter !== 'max_dp_cores' && (limit === null || caps.get(meter) !== limit));
  return labelled(new Map(limits.map(({ meter, limit, per }) => [meter, `${limitOf(limit)}${per === null ? '' : ` per ${per}`}`])), meterName);
}
const capsOf = (license: LicenseAnswer): Map<string, string> => new Map(featuresOf(license, { withUse: false }).map(({ label, value }) => [label, value]));

/** A key that is only tried: the server has said whether it is good and what it allows, but not the rest yet. */
const isUnknown = ({ applied, freeTrial }: LicenseAnswer): boolean => !applied && freeTrial === null;
const unknown = ['Type', 'Customer', 'Serial number', 'Deployment ID', 'Deployment mode', 'Validation mode'];
/** It never ends, or its time begins with the first activation. */
const isExpiryUnknown = (license: LicenseAnswer): boolean => isUnknown(license) && license.expirationDate === null;

/** Notes on the new license besides the differences. */
export function previewNotesOf(after: LicenseAnswer): string[] {
  const { source, offlineGraceEndsAt } = after;
  return [
    ...(isUnknown(after) ? [`${isExpiryUnknown(after) ? 'Expiry, type' : 'Type'}, serial number and validation mode are known after activation.`] : []),
    ...(source === 'file' && offlineGraceEndsAt !== null ? [`Without a newer license it works until ${moment(offlineGraceEndsAt)}.`] : []),
  ];
}

/** The differences with the new license, as far as known. `before`: null if nothing is known of the one in use. */
export function changesOf(before: LicenseAnswer | null, after: LicenseAnswer): Change[] {
  const left = new Set([...(isUnknown(after) ? unknown : []), ...(isExpiryUnknown(after) ? ['Expires'] : [])]);
  const kinds = [[factsOf, 'Not known'], [limitsOf, 'Not limited'], [capsOf, 'Not included']] as const;
  return kinds.flatMap(([of, otherwise]) => {
    const [was, is] = [before ? of(before) : new Map<string, string>(), of(after)];
    return [...new Set([...was.keys(), ...is.keys()])].filter((label) => of !== factsOf || !left.has(label)).map((label) => ({ label, before: was.get(label) ?? otherwise, after: is.get(label) ?? otherwise }));
  }).filter(({ before, after }) => before !== after);
}

// ---- what can be wrong ----

export interface Trouble {
  readonly title: string;
  readonly codes: readonly string[];
  /** Its meaning, in a sentence. */
  readonly text: string;
  readonly steps: readonly string[];
}

export const troubles: readonly Trouble[] = [
  {
    title: 'No outbound access', codes: ['NO_OUTBOUND_ACCESS', 'UNREACHABLE', 'IN_OFFLINE_GRACE', 'HEARTBEAT_OVERDUE', 'UNTRUSTED_ANSWER'],
    text: 'This machine cannot reach the license server. What was last signed stays in force for the offline grace.',
    steps: ['Allow outbound HTTPS from this machine to the server URL shown under Server and proxy.', 'Behind a proxy, set HTTPS_PROXY (and NO_PROXY) for the agent and start it again. A proxy that opens TLS needs its certificate in NODE_EXTRA_CA_CERTS.', 'With no way out at all, ask your vendor for a license file and upload it here.'],
  },
  {
    title: 'License server unavailable', codes: ['LICENSE_SERVER_UNAVAILABLE'],
    text: 'The license server answers, but has too much to do, is being maintained or fails. What was last signed stays in force for the offline grace.',
    steps: ['Nothing has to be changed here: the agent asks again by itself.', 'If it stays so, tell your vendor the status that is shown above, and when it began.'],
  },
  {
    title: 'Wrong deployment mode', codes: ['DEPLOYMENT_MODE_MISMATCH', 'DEPLOYMENT_MISMATCH'],
    text: 'The license was issued for another deployment mode or deployment than this one.',
    steps: ['Compare Deployment mode and Deployment ID under License details with what you ordered.', 'Set LICENSE_DEPLOYMENT_MODE and LICENSE_DEPLOYMENT_ID for the agent as your vendor named them, and start it again.', 'Otherwise ask your vendor for a license of this deployment mode.'],
  },
  {
    title: 'License expired', codes: ['EXPIRED', 'LICENSE_EXPIRED', 'IN_EXPIRY_GRACE'],
    text: 'The license has passed its expiry date. Once its grace is over, reads continue and writes are blocked.',
    steps: ['Ask your vendor for a renewal.', 'A renewed license needs nothing but Refresh. A new key or file goes under Change license, which works in every state.'],
  },
  {
    title: 'Activation limit reached', codes: ['ACTIVATION_LIMIT_EXCEEDED'],
    text: 'The license is active on as many machines as it allows, so this one got no activation.',
    steps: ['Deactivate the license on a machine that needs it no more, on its own License Management page.', 'If that machine is gone, ask your vendor to revoke its activation.', 'Otherwise ask your vendor for a higher limit. Then enter the license here again.'],
  },
];

/** The present problems, as codes. `refused`: the code of the last refusal. A license by file needs no server, so it cannot be cut off. */
export function codesOf({ code, reasons, problems, server, source }: LicenseAnswer, refused: string | null): ReadonlySet<string> {
  const all = [code, ...reasons, ...problems.map((problem) => problem.code), ...(server.reachable === false ? ['UNREACHABLE'] : [])];
  return new Set([...all.filter((one) => source !== 'file' || (one !== 'IN_OFFLINE_GRACE' && one !== 'HEARTBEAT_OVERDUE')), ...(refused ? [refused] : [])]);
}

/** The troubles there are now, by the agent's state and its last refusal. */
export function troublesNow(codes: ReadonlySet<string>): ReadonlySet<Trouble> {
  const now = troubles.filter((trouble) => trouble.codes.some((code) => codes.has(code)));
  // The server is out of reach in both cases; the network is only at fault in one.
  const isThere = codes.has('LICENSE_SERVER_UNAVAILABLE') && !codes.has('NO_OUTBOUND_ACCESS');
  return new Set(isThere ? now.filter((trouble) => !trouble.codes.includes('NO_OUTBOUND_ACCESS')) : now);
}

/** Why a request was refused, and what that means. */
export function failureText({ code, title, detail, members }: Failure): { readonly title: string; readonly text: string } {
  const trouble = troubles.find(({ codes }) => codes.includes(code));
  if (!trouble) return { title, text: detail === title ? '' : detail };
  const { limit, used } = members;
  const numbers = code === 'ACTIVATION_LIMIT_EXCEEDED' && typeof limit === 'number' && typeof used === 'number' ? ` ${number(used)} of ${number(limit)} activations are in use.` : '';
  const status = code === 'LICENSE_SERVER_UNAVAILABLE' && typeof members['serverStatus'] === 'number' ? ` It answered with status ${members['serverStatus']}.` : '';
  return { title: trouble.title, text: `${trouble.text}${numbers}${status}` };
}
