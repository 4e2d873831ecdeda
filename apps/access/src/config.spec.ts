import { expect, it } from '@jest/globals';
import { accessConfig } from './config.ts';

it('A root key is one that fits into a header', () => {
  for (const KEYLEDGER_ROOT_API_KEY of ['x'.repeat(32), 'lk_production_my-own-root-key-of-32-characters']) expect(accessConfig({ KEYLEDGER_ROOT_API_KEY })).toEqual({ rootApiKey: KEYLEDGER_ROOT_API_KEY });
  for (const KEYLEDGER_ROOT_API_KEY of ['x'.repeat(31), `${'x'.repeat(32)} y`, `${'x'.repeat(32)}ü`]) expect(() => accessConfig({ KEYLEDGER_ROOT_API_KEY })).toThrow('KEYLEDGER_ROOT_API_KEY');
  for (const env of [{}, { KEYLEDGER_ROOT_API_KEY: '' }]) expect(accessConfig(env)).toEqual({ rootApiKey: undefined });
});
