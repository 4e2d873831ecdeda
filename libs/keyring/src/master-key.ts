import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, fsyncSync, linkSync, mkdirSync, openSync, readFileSync, unlinkSync, writeSync } from 'node:fs';
import { join } from 'node:path';

const BYTES = 32;
const FILE_NAME = 'master.key';

/**
 * The 32 bytes that every other key of an installation comes from: out of `value` (KEYLEDGER_MASTER_KEY; hex or base64), or a `file`
 * (KEYLEDGER_MASTER_KEY_FILE; the same, or the bare bytes), or, without either, the file `master.key` in the data directory,
 * which the first start makes (mode 0600) unless it must be an `existing` one. Throws with the variable's name when there is no such key in it, and when two are given.
 */
export function loadMasterKey({ value, file, dataDir, existing = false }: { value?: string; file?: string; dataDir: string; existing?: boolean }): Buffer {
  const [given, inFile] = [value ? keyIn(value) : undefined, file ? parse(read(file, 'KEYLEDGER_MASTER_KEY_FILE'), `KEYLEDGER_MASTER_KEY_FILE (${file})`) : undefined];
  if (given && inFile && !given.equals(inFile)) throw new Error('KEYLEDGER_MASTER_KEY and KEYLEDGER_MASTER_KEY_FILE are different keys');
  const chosen = given ?? inFile;
  if (chosen) return chosen;
  const own = join(dataDir, FILE_NAME);
  if (existing && !existsSync(own)) throw new Error(`There is no master key: ${own} does not exist, and neither KEYLEDGER_MASTER_KEY nor KEYLEDGER_MASTER_KEY_FILE is set`);
  return parse(readIfThere(own) ?? make(dataDir, own), own);
}

/** In a file, 32 characters are bare bytes, because a key file may come from anywhere; in the variable they are a password, or half a key in hex. */
function keyIn(value: string): Buffer {
  if (Buffer.byteLength(value) !== BYTES) return parse(Buffer.from(value), 'KEYLEDGER_MASTER_KEY');
  throw new Error(`KEYLEDGER_MASTER_KEY must be ${BYTES} bytes in base64 or hex, not ${BYTES} characters. If the installation was created with these characters as its key, put them in a file without a line end and set KEYLEDGER_MASTER_KEY_FILE to it`);
}

function parse(content: Buffer, source: string): Buffer {
  const key = content.length === BYTES ? content : decode(content.toString('latin1').trim());
  if (key?.length !== BYTES) throw new Error(`${source} must be ${BYTES} bytes in base64 or hex, for example from: openssl rand -base64 ${BYTES}`);
  return key;
}

function decode(text: string): Buffer | undefined {
  if (/^[0-9a-f]+$/i.test(text) && text.length === 2 * BYTES) return Buffer.from(text, 'hex');
  return /^[A-Za-z0-9+/_-]+=*$/.test(text) ? Buffer.from(text, 'base64') : undefined;
}

function read(path: string, variable: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Error(`${variable}: cannot read ${path}`, { cause: error });
  }
}

function readIfThere(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Complete and on the disk before anything is encrypted with it; of two processes that start together, both get the first one's. */
function make(dataDir: string, path: string): Buffer {
  mkdirSync(dataDir, { recursive: true, mode: 0o700 });
  const draft = `${path}.${randomBytes(8).toString('hex')}`;
  writeDurably(draft, `${randomBytes(BYTES).toString('base64')}\n`);
  try {
    linkSync(draft, path);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  } finally {
    unlinkSync(draft);
  }
  syncDirectory(dataDir);
  return readFileSync(path);
}

function writeDurably(path: string, content: string): void {
  const fd = openSync(path, 'wx', 0o600);
  try {
    writeSync(fd, content);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function syncDirectory(path: string): void {
  if (process.platform === 'win32') return; // cannot be opened there, and need not be
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

const hasCode = (error: unknown, code: string): boolean => typeof error === 'object' && error !== null && 'code' in error && error.code === code;
