import { resolve } from 'node:path';

export interface SigningConfig {
  /** KEYLEDGER_SIGNING_PASSPHRASE: new private keys are sealed under it instead of the master key. Every start needs it then. */
  passphrase: string | undefined;
  /** KEYLEDGER_ROOT_EXPORT, a folder, and KEYLEDGER_ROOT_PASSPHRASE: at this start the root keys are written there and taken off the server. */
  rootExport: { folder: string; passphrase: string } | undefined;
}

const leastPassphrase = 16;

export function signingConfig(env: NodeJS.ProcessEnv = process.env): SigningConfig {
  const passphrase = passphraseIn(env, 'KEYLEDGER_SIGNING_PASSPHRASE');
  const rootPassphrase = passphraseIn(env, 'KEYLEDGER_ROOT_PASSPHRASE');
  const folder = env['KEYLEDGER_ROOT_EXPORT'] || undefined;
  if (folder !== undefined && rootPassphrase === undefined) throw new Error('KEYLEDGER_ROOT_EXPORT is set, but KEYLEDGER_ROOT_PASSPHRASE, which seals the exported root keys, is not');
  return { passphrase, rootExport: folder !== undefined && rootPassphrase !== undefined ? { folder: resolve(folder), passphrase: rootPassphrase } : undefined };
}

function passphraseIn(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const value = env[name] || undefined;
  if (value !== undefined && value.length < leastPassphrase) throw new Error(`${name} must have at least ${leastPassphrase} characters`);
  return value;
}
