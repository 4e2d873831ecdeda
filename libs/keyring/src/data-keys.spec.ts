import { MemoryDataKeys } from './data-keys.ts';
import { dataKeyStoreContract } from './data-keys.contract.ts';

dataKeyStoreContract('MemoryDataKeys', async () => new MemoryDataKeys());
