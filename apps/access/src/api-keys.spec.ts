import { expect, it } from '@jest/globals';
import { Authenticate, CreateApiKey, RotateApiKey } from '@keyledger/contracts';
import { ApiKey, type ApiKeyState } from '@keyledger/domain';
import { EventStores } from '@keyledger/event-store';
import { context, roles, runIn, systemContext, type Permission } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { idOf, scenarios } from '@keyledger/testing';
import { ApiKeyCommands, Authentication } from './api-keys.handlers.ts';
import { secretHash } from './secrets.ts';
import { AccessStreams } from './streams.ts';

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

const { story, stateOf } = scenarios(ApiKey, now);
const created = (more: object = {}) => story({ type: 'Create', apiKeyId: idOf('key'), name: 'CI', role: 'support', environment: 'staging', secretHash: secretHash('first'), ...more });

it('An API key is good as long as it is neither rotated, nor deleted, nor over, though it has been found before', async () => {
  let [key, at] = [stateOf(created()), now];
  const authentication = new Authentication(
    { apiKeys: { load: async (_: string, view: (state: ApiKeyState | null) => unknown) => view(key) } } as never, { bySecretHash: async () => idOf('key') } as never, { now: () => at } as never,
  );
  const ask = (secret = 'first') => runIn(systemContext('control', now), () => authentication.execute(Object.assign(new Authenticate(), { secret })));
  expect(await ask()).toMatchObject({ environment: 'staging', role: 'support' });
  key = stateOf(story(created(), { type: 'Rotate', secretHash: secretHash('second') }));
  expect([await ask(), await ask('second')]).toEqual([null, expect.objectContaining({ apiKeyId: idOf('key') })]);
  key = stateOf(story(created(), { type: 'Delete' }));
  expect(await ask()).toBeNull();
  key = stateOf(created({ expiresAt: '2026-12-01T00:00:00.000Z' }));
  expect(await ask()).not.toBeNull();
  at = '2026-12-01T00:00:00.000Z';
  expect(await ask()).toBeNull();
});

it('Nobody gives more than he has, by a new key or by a new secret for another', async () => {
  const apiKeys = { load: async (_: string, view: (state: ApiKeyState | null, revision: number) => unknown) => view(stateOf(created({ role: 'super_admin' })), 0), run: async () => ({}) };
  const commands = new ApiKeyCommands({ mustReach: async () => undefined, apiKeys } as never, { here: () => ({ hmac: () => 'secret' }) } as never, { now: () => now } as never);
  const asked = [Object.assign(new CreateApiKey(), { name: 'mine', role: 'super_admin' }), Object.assign(new RotateApiKey(), { apiKeyId: idOf('key') })];
  const as = (permissions: readonly Permission[], command: (typeof asked)[number]) => {
    const caller = systemContext('staging', now);
    return runIn({ ...caller, actor: { ...caller.actor, permissions } }, () => commands.execute(command as CreateApiKey));
  };
  for (const command of asked) {
    await expect(as(['access.manage'], command)).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    expect(await as(roles.super_admin, command)).toHaveProperty('secret');
  }
});

it('Another environment is for the root key alone', async () => {
  let root = false;
  const streams = Object.assign(new AccessStreams(new EventStores([]), new Keyrings([])), { apiKeys: { load: async () => ({ state: { root } }) } });
  const reach = (environment: string) => runIn(systemContext('staging', now), () => streams.mustReach(environment));
  await reach('staging');
  await expect(reach('production')).rejects.toMatchObject({ code: 'ENVIRONMENT_FORBIDDEN' });
  await expect(reach('nowhere')).rejects.toMatchObject({ code: 'ENVIRONMENT_NOT_FOUND' });
  root = true;
  await reach('production');
});
