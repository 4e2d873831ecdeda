import { sealedKeysTable } from './key-store.ts';

export { signingConfig, type SigningConfig } from './config.ts';
export { SigningModule } from './signing.module.ts';
export const signingSchema = { state: [sealedKeysTable] };
