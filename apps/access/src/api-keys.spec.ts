import { expect, it } from '@jest/globals';
import { Authenticate, CreateApiKey } from '@keyledger/contracts';
import { ApiKey, type ApiKeyState } from '@keyledger/domain';
import { context, runIn, systemContext } from '@keyledger/kernel';
import { idOf, scenarios } from '@keyledger/testing';
import { ApiKeyCommands, Authentication } from './api-keys.handlers.ts';
import { secretHash } from './secrets.ts';

const now = '2026-11-21T12:00:00.000Z';

it('A root key may begin like the key of an environment', async () => {
  const { story, stateOf } = scenarios(ApiKey, now);
  const secret = 'lk_production_my-own-root-key-of-32-characters';
  const root = stateOf(story({ type: 'Create', apiKeyId: idOf('key'), name: 'Root', role: 'super_admin', environment: 'control', secretHash: secretHash(secret), root: true }));
  const authentication = new Authentication(
    { apiKeys: { load: async (_: string, view: (state: ApiKeyState | null) => unknown) => view(root) } } as never,
    { bySecretHash: async (hash: string) => (context().environment === 'control' && hash === secretHash(secret) ? idOf('key') : undefined) } as never,
    { now: () => now } as never,
  );
  const ask = (asked: string) => runIn(systemContext('control', now), () => authentication.execute(Object.assign(new Authenticate(), { secret: asked })));
  expect(await ask(secret)).toMatchObject({ apiKeyId: idOf('key'), environment: null, role: 'super_admin' });
  expect(await ask('lk_production_another-key-of-32-characters-or-more')).toBeNull();
});

it.each(['2026-12-31T00:00:00+02', '2026-12-31T23:59:60Z', '2020-01-01T00:00:00+02'])('An API key is not made to live for ever when the end that was given for it cannot be read (%s)', async (expiresAt) => {
  const commands = new ApiKeyCommands(
    { mustReach: async () => undefined, apiKeys: { run: async (_: string, command: never) => ApiKey.decide(null, command, now) } } as never,
    { here: () => ({ hmac: () => 'secret' }) } as never,
    { now: () => now } as never,
  );
  const command = Object.assign(new CreateApiKey(), { name: 'CI', permissions: [], expiresAt });
  await expect(runIn(systemContext('staging', now), () => commands.execute(command)))
    .rejects.toMatchObject({ code: 'VALIDATION_FAILED' });
});
