export { decrypt, encrypt } from './cipher.ts';
export { dataKeysMigration, MemoryDataKeys, overwrittenKeys, StoredDataKeys, type DataKeyStore, type WrappedKeys } from './data-keys.ts';
export { Keyring, type KeyringOptions } from './keyring.ts';
export { loadMasterKey } from './master-key.ts';
export { Keyrings } from './keyrings.ts';
