import { refuse } from '@keyledger/kernel';

/**
 * License keys: their formats, how they are drawn, and how a key as typed finds the one that was issued.
 *
 * - `crockford`: 26 random characters and 2 check characters, in four groups of seven (130 bits).
 * - `uuid`: a random UUID, version 4 (122 bits).
 * - `chunks`: `chunks` groups of `chunkLength` random characters; 5 × 5 by default (125 bits).
 * - `pattern`: `#` is a digit, `?` a letter, `*` either; letters, digits, `-`, `.`, `_` and spaces stand for themselves.
 *
 * All of them draw from the alphabet of Crockford's base 32, which leaves out I, L, O and U. A product prefix goes in front.
 */
export interface KeyFormat {
  readonly kind: 'crockford' | 'uuid' | 'chunks' | 'pattern';
  /** 1 to 16 letters and digits. */
  readonly prefix?: string;
  readonly chunks?: number;
  readonly chunkLength?: number;
  readonly pattern?: string;
}

/** `size` unpredictable bytes. */
export type RandomBytes = (size: number) => Uint8Array;

export const DEFAULT_KEY_FORMAT: KeyFormat = { kind: 'crockford' };
/** Below this, guessing a key of a large installation within ten years is no longer absurd. */
const MINIMUM_KEY_BITS = 96;

const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const alphabets: Readonly<Record<string, string>> = { '#': '0123456789', '?': CROCKFORD.slice(10), '*': CROCKFORD };
const RANDOM_CHARACTERS = 26;
const CHECK_CHARACTERS = 2;
const GROUP = 7;
const chunksOf = ({ chunks = 5, chunkLength = 5 }: KeyFormat) => ({ chunks, chunkLength });

/** How many bits a guesser has to guess: log2 of the number of keys, all of which are equally likely. */
export function entropyBits(format: KeyFormat): number {
  switch (format.kind) {
    case 'crockford': return RANDOM_CHARACTERS * 5;
    case 'uuid': return 122;
    case 'chunks': return chunksOf(format).chunks * chunksOf(format).chunkLength * 5;
    case 'pattern': return [...(format.pattern ?? '')].reduce((bits, character) => bits + Math.log2(alphabets[character]?.length ?? 1), 0);
  }
}

/** The longest license key that requests accept. */
const MAX_KEY_LENGTH = 255;

/** Refuses with KEY_FORMAT_TOO_WEAK a format whose keys could be guessed, and with VALIDATION_FAILED an invalid one. */
export function checkKeyFormat(format: KeyFormat): void {
  const { kind, prefix, pattern } = format;
  const { chunks, chunkLength } = chunksOf(format);
  if (prefix !== undefined && !/^[A-Za-z0-9]{1,16}$/.test(prefix)) throw malformed('prefix', 'must be 1 to 16 letters and digits');
  if (kind === 'chunks' && !within(chunks, 16)) throw malformed('chunks', 'must be 1 to 16');
  if (kind === 'chunks' && !within(chunkLength, 32)) throw malformed('chunkLength', 'must be 1 to 32');
  const length = (prefix === undefined ? 0 : prefix.length + 1) + chunks * (chunkLength + 1) - 1;
  if (kind === 'chunks' && length > MAX_KEY_LENGTH) throw malformed('chunkLength', `makes keys of ${length} characters; the maximum is ${MAX_KEY_LENGTH}`);
  if (kind === 'pattern' && !/^[#?*A-Za-z0-9._ -]{1,128}$/.test(pattern ?? '')) {
    throw malformed('pattern', 'must be 1 to 128 of: # (digit), ? (letter), * (either), and letters, digits, - . _ and spaces as they are');
  }
  const bits = Math.floor(entropyBits(format));
  if (bits < MINIMUM_KEY_BITS) throw refuse('KEY_FORMAT_TOO_WEAK', `Keys of this format have ${bits} random bits; at least ${MINIMUM_KEY_BITS} are required`, { bits, minimum: MINIMUM_KEY_BITS });
}

const within = (value: number, most: number): boolean => Number.isInteger(value) && value >= 1 && value <= most;
const malformed = (field: string, detail: string) =>
  refuse('VALIDATION_FAILED', `keyFormat.${field} ${detail}`, { errors: [{ pointer: `/keyFormat/${field}`, detail }] });

/** A new key. Any two formats draw the same way; each key of a format is as likely as any other. */
export function generateKey(format: KeyFormat, random: RandomBytes): string {
  const body = drawBody(format, random);
  return format.prefix ? `${format.prefix.toUpperCase()}-${body}` : body;
}

function drawBody(format: KeyFormat, random: RandomBytes): string {
  switch (format.kind) {
    case 'crockford': {
      const drawn = draw(CROCKFORD, RANDOM_CHARACTERS, random);
      return grouped(drawn + checkCharacters(drawn), GROUP);
    }
    case 'uuid': return uuidV4(random(16));
    case 'chunks': {
      const { chunks, chunkLength } = chunksOf(format);
      return grouped(draw(CROCKFORD, chunks * chunkLength, random), chunkLength);
    }
    case 'pattern': return (format.pattern ?? '').replace(/[#?*]+/g, (places) => drawPlaces(places, random));
  }
}

function drawPlaces(places: string, random: RandomBytes): string {
  return [...places].map((place) => draw(alphabets[place] ?? place, 1, random)).join('');
}

/** A byte beyond the last whole multiple of the alphabet's size is thrown away: with a plain remainder the first letters would be likelier. */
function draw(alphabet: string, length: number, random: RandomBytes): string {
  const fair = 256 - (256 % alphabet.length);
  let drawn = '';
  while (drawn.length < length) {
    for (const byte of random(length - drawn.length)) if (byte < fair) drawn += alphabet.charAt(byte % alphabet.length);
  }
  return drawn;
}

function uuidV4(bytes: Uint8Array): string {
  const hex = Buffer.from(bytes);
  hex[6] = ((hex[6] ?? 0) & 0x0f) | 0x40;
  hex[8] = ((hex[8] ?? 0) & 0x3f) | 0x80;
  return hex.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

const grouped = (text: string, size: number): string => text.match(new RegExp(`.{1,${size}}`, 'g'))?.join('-') ?? '';

/**
 * The form keys are looked up by: upper case, O as 0, I and L as 1, and nothing but letters and digits of ASCII.
 * It is the same however a person spells an issued key.
 */
export function normaliseKey(typed: string): string {
  return typed.replace(/[^0-9A-Za-z]+/g, '').toUpperCase().replaceAll('O', '0').replace(/[IL]/g, '1');
}

/**
 * Other spellings that a typed part of a key may have in the key: with dashes for anything else between its letters and digits; if there is nothing
 * between them, with the dashes of the `crockford` format, wherever in a group the part begins.
 */
export function spellingsOf(part: string): readonly string[] {
  const words = foreign.test(part) ? [] : part.match(/[0-9A-Za-z]+/g) ?? [];
  const [word = ''] = words;
  if (words.length > 1) return [words.join('-')];
  if (word.length <= GROUP) return [];
  return Array.from({ length: GROUP }, (_, n) => grouped(' '.repeat(n) + word, GROUP).trimStart());
}

/** Letters and digits that no key has: text with one of them is no part of a key (`größe` is not `GR-E`). */
const foreign = /[^\P{L}A-Za-z]|\p{M}|[^\P{N}0-9]/u;

/** The first 8 characters after the product prefix: the part of a key that lists and logs may show. */
export function keyPrefix(key: string, productPrefix = ''): string {
  const [all, prefix] = [normaliseKey(key), normaliseKey(productPrefix)];
  return (all.startsWith(prefix) ? all.slice(prefix.length) : all).slice(0, 8);
}

/*
 * The check characters are a Reed–Solomon code (I. S. Reed and G. Solomon, "Polynomial Codes over Certain Finite Fields", 1960) of length 28
 * over the field of 32 elements, shortened from (31, 29): the characters are the coefficients of a polynomial that is 0 at α and at α².
 * Its distance is 3, so every wrong character, every two wrong characters and with them every exchange of two characters is noticed,
 * and any other mistake but for one in 1024.
 */
const { powers, logarithms } = field(0b100101);

/** The field's elements as powers of α, a root of x⁵ + x² + 1. */
function field(polynomial: number) {
  const elements = [1];
  while (elements.length < 31) {
    const next = (elements.at(-1) ?? 0) << 1;
    elements.push(next & 32 ? next ^ polynomial : next);
  }
  return { powers: elements, logarithms: new Map(elements.map((element, log) => [element, log])) };
}

/** x · αⁿ */
function timesPower(x: number, n: number): number {
  const log = logarithms.get(x);
  return log === undefined ? 0 : (powers[(log + n) % 31] ?? 0);
}

/** The remainder of the polynomial · x² by (x − α)(x − α²) = x² + (α + α²)x + α³, as two characters. */
function checkCharacters(drawn: string): string {
  const middle = logarithms.get((powers[1] ?? 0) ^ (powers[2] ?? 0)) ?? 0;
  let [high, low] = [0, 0];
  for (const character of drawn) {
    const out = CROCKFORD.indexOf(character) ^ high;
    [high, low] = [low ^ timesPower(out, middle), timesPower(out, 3)];
  }
  return CROCKFORD.charAt(high) + CROCKFORD.charAt(low);
}

/**
 * Whether a key of the `crockford` format can have been issued, however it is spelled, with its prefix or without:
 * the last 28 characters are looked at. Keys of other formats have no check characters.
 */
export function hasValidCheck(key: string): boolean {
  const code = normaliseKey(key).slice(-(RANDOM_CHARACTERS + CHECK_CHARACTERS));
  if (code.length < RANDOM_CHARACTERS + CHECK_CHARACTERS || [...code].some((character) => !CROCKFORD.includes(character))) return false;
  return code.slice(-CHECK_CHARACTERS) === checkCharacters(code.slice(0, RANDOM_CHARACTERS));
}
