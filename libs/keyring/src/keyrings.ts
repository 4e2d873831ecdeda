import { PerEnvironment } from '@keyledger/kernel';
import type { Keyring } from './keyring.ts';

/** The keyring of each environment; `here()` is the one of the current message's. */
export class Keyrings extends PerEnvironment<Keyring> {}
