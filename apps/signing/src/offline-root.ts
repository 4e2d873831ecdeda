import { createPrivateKey, randomUUID, sign } from 'node:crypto';
import { mkdir, open as openFile, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { environments, runIn, systemContext, type Clock } from '@keyledger/kernel';
import { purposes, type Certificate, type KeyStatement, type PublicJwk } from '@keyledger/license-file';
import { signed } from '@keyledger/license-file/sign';
import type { SealedKeys } from './key-store.ts';
import { statementOf, type Keys } from './keys.ts';
import { open, placeOf } from './sealing.ts';

/** A root key as it is kept offline. */
interface RootFile {
  readonly format: 'keyledger-root/1';
  readonly environment: string;
  readonly kid: string;
  readonly publicJwk: PublicJwk;
  /** Under the passphrase. */
  readonly sealed: string;
}

/** Writes `<environment>-root.json` for every environment, opens each file again as a check, and then takes the root keys off the server. */
export async function takeRootsOffline(keys: Keys, store: SealedKeys, clock: Clock, { folder, passphrase }: { folder: string; passphrase: string }): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const environment of environments) {
    await runIn(systemContext(environment, clock.now(environment)), async () => {
      const { root } = await keys.load();
      if (!root || root.offline) return;
      const { kid, publicJwk } = root;
      const file: RootFile = { format: 'keyledger-root/1', environment, kid, publicJwk, sealed: await store.exported(kid, passphrase) };
      const path = join(folder, `${environment}-root.json`);
      await mustNotBeAnothers(path, kid);
      await writeDurably(path, `${JSON.stringify(file, null, 2)}\n`);
      await opened(await readFile(path, 'utf8'), passphrase);
      await keys.run({ type: 'TakeRootOffline', kid });
      await store.destroy(kid); // if this fails, the next run that provides keys does it
    });
  }
}

/**
 * The certificate for a staged key, made where the root is kept. `key` is the key as `GET /signing-keys` shows it; the answer is what
 * `POST /signing-keys/:kid/activate` takes as `certificate`. Throws with another passphrase.
 */
export async function certify(rootFile: string, passphrase: string, key: Omit<KeyStatement, 'environment'>): Promise<Certificate> {
  const { file, privateKey } = await opened(rootFile, passphrase);
  if (!purposes.includes(key.purpose)) throw new Error(`${String(key.purpose)} is not a purpose of a signing key`);
  const text = await signed({ type: 'key-certificate', payload: statementOf(key, file.environment) }, file.kid, (input) => sign(null, Buffer.from(input), privateKey));
  return JSON.parse(text) as Certificate;
}

async function opened(text: string, passphrase: string) {
  const file = JSON.parse(text) as RootFile;
  const secret = await open({ passphrase }, placeOf(file.environment, file.kid), file.sealed);
  const privateKey = createPrivateKey({ key: secret, format: 'der', type: 'pkcs8' });
  secret.fill(0);
  return { file, privateKey };
}

/** A file that another installation left there may be the only copy of its root. */
async function mustNotBeAnothers(path: string, kid: string): Promise<void> {
  const there = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
  if (there !== undefined && !there.includes(JSON.stringify(kid))) throw new Error(`KEYLEDGER_ROOT_EXPORT: ${path} already exists, with another root: choose another folder`);
}

/** The file gets its name only when all of it is on the disk: another start may have written the same file, and already destroyed the key here. */
async function writeDurably(path: string, text: string): Promise<void> {
  const draft = `${path}.${randomUUID()}`;
  const file = await openFile(draft, 'wx', 0o600);
  await file.writeFile(text).then(() => file.sync()).finally(() => file.close());
  await rename(draft, path);
  // Flush the name as well, where the system can.
  await openFile(dirname(path)).then((folder) => folder.sync().finally(() => folder.close())).catch(() => undefined);
}
