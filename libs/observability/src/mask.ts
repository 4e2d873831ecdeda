/** Names of fields whose value is a secret whatever it looks like: keys may be UUIDs or follow a customer's own pattern. */
const secretNames = [
  'licen[sc]e[-_]?key', '(?:root[-_]?|x[-_]?)?api[-_]?key', '(?:client[-_]?|webhook[-_]?)?secret', 'authorization', 'password', 'passphrase', 'pepper',
  'master[-_]?key', 'private[-_]?key', '(?:set[-_]?)?cookie', '(?:access[-_]?|refresh[-_]?|session[-_]?|setup[-_]?)?token',
].join('|');
/** `key` alone is a secret as the name of a field or of a URL parameter, not in running text. */
const secretField = new RegExp(`^(?:${secretNames}|key)$`, 'i');

// Every pattern is tried once per run of letters and digits, or of spaces (hence the look-behinds), so that a hostile text costs no more than its length.
const separator = '(?:[-_. +]|%2[0D])';
const startOfRun = '(?<![0-9A-Z])';
const licenseKey = `${startOfRun}(?:[0-9A-Z]{1,16}[-_]){0,3}[0-9A-Z]{7,}${separator}[0-9A-Z]{7}${separator}[0-9A-Z]{7}${separator}[0-9A-Z]{7,}`;
/** A key typed without its dashes, or any token of that length. Pure hex is a trace id or a hash. */
const unbroken = `${startOfRun}(?![0-9A-F]+(?![0-9A-Z]))[0-9A-Z]{28,}`;
const apiKey = 'lk_[0-9A-Z-]+_[0-9A-Z-]+_[0-9A-Z_-]+';
const webhookSecret = 'whsec_(?:[0-9A-Z+/_=-]|%2[BF]|%3D)+';
const credentials = '(?=[^\\s"\',])(?<=\\b(?:bearer|basic)\\s+)[^\\s"\',]{16,}';
const parameter = `(?<=[?&](?:${secretNames}|key)=)[^&\\s#"']+`;
const quotes = '[\\\\"\']{0,4}';
const assignment = `(?<=(?:${secretNames})${quotes}\\s?[=:]\\s?${quotes}(?:bearer |basic |license )?)(?!(?:bearer|basic|license) )[^\\s"'\\\\&,;)}\\]]{4,}`;
const passwordInUrl = '(?<=://[^\\s/@:]*:)[^\\s/@]+(?=@)';

const secrets = new RegExp([apiKey, webhookSecret, parameter, assignment, passwordInUrl, credentials, licenseKey, unbroken].join('|'), 'gi');

/** A line without any of these holds nothing that `secrets` or `secretField` could find; they are much cheaper to look for. */
const hints = ['key', 'secret', 'authorization', 'pass', 'pepper', 'cookie', 'token', 'lk_', 'whsec_', 'bearer', 'basic', '@'];
const shapes = new RegExp(
  `${startOfRun}(?:[0-9A-Z]{7,}${separator}[0-9A-Z]{7}${separator}[0-9A-Z]{7}|(?![0-9A-F]+(?![0-9A-Z]))[0-9A-Z]{28})`.toLowerCase(),
);

function suspicious(line: string): boolean {
  const lower = line.toLowerCase();
  return hints.some((hint) => lower.includes(hint)) || shapes.test(lower);
}

/** The first 8 characters; nothing of a short secret, because they would be more than half of it. A secret already cut stays as it is. */
export function cut(secret: string): string {
  if (secret.length === 9 && secret.endsWith('…')) return secret;
  return secret.length < 16 ? '…' : `${secret.slice(0, 8)}…`;
}

/** The text with everything that looks like a license key, an API key or another credential cut short. */
export const mask = (text: string): string => text.replace(secrets, cut);

/** A JSON value with its secrets cut, in values and in names of fields; `secret`: the name of the field marks its value as a secret. */
function maskDeep(value: unknown, secret = false): unknown {
  if (typeof value === 'string') return secret ? cut(value) : mask(value);
  if (typeof value === 'number') return secret ? '…' : value;
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) return value.map((item) => maskDeep(item, secret));
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [mask(name), maskDeep(item, secret || secretField.test(name))]));
}

/** Masks a finished JSON line of the logger: the last gate, so it does not matter how a secret got into the line. */
export function maskLine(line: string): string {
  if (!suspicious(line)) return line;
  try {
    return `${JSON.stringify(maskDeep(JSON.parse(line)))}\n`;
  } catch {
    return mask(line);
  }
}
