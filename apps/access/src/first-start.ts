import { controlEnvironment, derivedId, environments, runIn, systemContext, type Clock } from '@keyledger/kernel';
import { randomBytes } from 'node:crypto';
import type { AccessConfig } from './config.ts';
import { secretHash } from './secrets.ts';
import type { AccessStreams } from './streams.ts';

/** Every installation has one root key, always under this id. */
const rootId = derivedId('key', '6b65796c-6564-4765-8000-726f6f742121', '2026-01-01T00:00:00.000Z');

/** Creates missing environments and the root key. Repeating it changes nothing; a different KEYLEDGER_ROOT_API_KEY replaces the root key's secret. */
export function firstStart(streams: AccessStreams, clock: Clock, { rootApiKey }: AccessConfig, print: (secret: string) => void): Promise<void> {
  return runIn(systemContext(controlEnvironment, clock.now(controlEnvironment)), async () => {
    for (const name of environments) await streams.environments.run(name, { type: 'Create', name });
    const { state: root } = await streams.apiKeys.load(rootId);
    if (root && rootApiKey === undefined) return;
    const secret = rootApiKey ?? `lk_root_${randomBytes(32).toString('base64url')}`;
    const hash = secretHash(secret);
    const { events } = root ? await streams.apiKeys.run(rootId, { type: 'Rotate', secretHash: hash }) : await streams.apiKeys.run(rootId, { type: 'Create', apiKeyId: rootId, name: 'root', role: 'super_admin', environment: controlEnvironment, secretHash: hash, root: true });
    // Another process may have been faster: then its key counts.
    if (rootApiKey === undefined && events.length > 0) print(secret);
  });
}
