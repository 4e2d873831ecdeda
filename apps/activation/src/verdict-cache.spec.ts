import { describe, expect, it } from '@jest/globals';
import { issued, License, normaliseKey } from '@keyledger/domain';
import type { EventStore, Handler, RecordedEvent, Subscription } from '@keyledger/event-store';
import { PerEnvironment, refuse, runIn, systemContext, type LicenseId } from '@keyledger/kernel';
import type { Keyring } from '@keyledger/keyring';
import type { MessageClient } from '@keyledger/messaging';
import { idOf, issue, licenseKey, regenerateKey, scenarios } from '@keyledger/testing';
import { VerdictCache } from './verdict-cache.ts';
import { VerdictCaches } from './verdict-caches.ts';

const { story, stateOf } = scenarios(License, '2026-03-12T12:00:00.000Z');
const key = licenseKey();
const licenseId = idOf('lic');
const state = issued(stateOf(story(issue({ key }))));
const another = licenseKey(2);
const replaced = issued(stateOf(story(issue({ key }), regenerateKey(2))));

/** A license in a log that takes a question to be asked for its head, as in another process. */
function cacheOverANetwork() {
  const counted = { heads: 0, loads: 0 };
  /** Comes between what is read and its arrival. */
  const held = { meanwhile: () => undefined as void };
  const answers = { state, isAway: false, resolved: { licenseId: licenseId as LicenseId | null, retired: false } };
  let head = 1;
  let show: Handler = () => undefined;
  const store = {
    head: async () => (answers.isAway ? Promise.reject(refuse('UNAVAILABLE')) : (counted.heads++, head)),
    subscribe: (_after: number, handler: Handler) => {
      show = handler;
      return { position: 1, close: async () => undefined } satisfies Subscription;
    },
  } as unknown as EventStore;
  const cache = new VerdictCache(
    { keyHash: (typed: string) => (typed === normaliseKey(another.value) ? another.hash : key.hash) } as unknown as Keyring, { send: async () => answers.resolved } as unknown as MessageClient, store,
    async () => {
      const known = { state: answers.state, revision: ++counted.loads };
      held.meanwhile();
      return known;
    }, head,
  );
  const changes = (stream: string) => void show([{ stream, position: ++head } as RecordedEvent], head, 1);
  return { cache, counted, held, answers, changes, find: async () => (await cache.find(key.value)).license?.revision, get: async () => (await cache.get(licenseId)).revision };
}

describe('A license that is asked about, over a network', () => {
  it('is read once, and again when something has happened to it', async () => {
    const { find, get, counted, changes } = cacheOverANetwork();
    expect(await find()).toBe(1);
    expect([await find(), await find(), await get()]).toEqual([1, 1, 1]);
    changes('license-another');
    expect(await find()).toBe(1);
    changes(`license-${licenseId}`);
    expect([await find(), await get()]).toEqual([2, 2]);
    expect(counted).toMatchObject({ loads: 2 });
  });

  it('is read once more when something has happened to it while it was read', async () => {
    const { find, held, changes } = cacheOverANetwork();
    held.meanwhile = () => {
      held.meanwhile = () => undefined;
      changes(`license-${licenseId}`);
    };
    expect(await find()).toBe(1);
    expect([await find(), await find()]).toEqual([2, 2]);
  });

  it('is read once more when so many others were asked about that nobody has followed it since', async () => {
    const { cache, find, counted, changes } = cacheOverANetwork();
    expect(await find()).toBe(1);
    await Promise.all(Array.from({ length: 200_000 }, (_, n) => cache.get(`lic_${n}` as LicenseId)));
    changes(`license-${licenseId}`);
    expect(await find()).toBe(counted.loads);
    expect(counted.loads).toBe(200_002);
  });

  it('is not found by a key that it had, however it has been read since', async () => {
    const { cache, answers, changes, find, get } = cacheOverANetwork();
    await find();
    answers.state = replaced;
    changes(`license-${licenseId}`);
    expect(await get()).toBe(2);
    answers.isAway = true;
    await expect(cache.find(key.value)).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
    answers.isAway = false;
    expect(await cache.find(key.value)).toEqual({ license: undefined, retired: true, conclusive: true });
  });

  it('is answered by what was known last while the log cannot be asked, and that is not conclusive: no heartbeat rests on it', async () => {
    const { cache, answers, find } = cacheOverANetwork();
    await find();
    answers.isAway = true;
    expect(await cache.find(key.value)).toMatchObject({ license: { revision: 1 }, retired: false, conclusive: false });
    for (const asked of [() => cache.find(another.value), () => cache.get(licenseId, key.value), () => cache.get(licenseId)]) {
      await expect(asked()).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
    }
  });

  it('is no other one’s, and whoever has the key of another, or a former one, does not guess', async () => {
    const { cache, answers } = cacheOverANetwork();
    await expect(cache.get(idOf('lic', 2), key.value)).rejects.toMatchObject({ code: 'LICENSE_NOT_FOUND', members: { retired: true } });
    for (const retired of [true, false]) {
      answers.resolved = { licenseId: null, retired };
      await expect(cache.get(licenseId, another.value)).rejects.toMatchObject({ code: 'LICENSE_NOT_FOUND', members: retired ? { retired } : {} });
    }
  });

  it('has changed since another answer was given, or it is not known', async () => {
    const { cache, changes, answers } = cacheOverANetwork();
    const since = async (position: number | null) => {
      const { position: now, changed } = await cache.changedSince(position);
      return [now, changed && [...changed]];
    };
    expect([await since(1), await since(null)]).toEqual([[1, []], [1, null]]);
    changes(`license-${licenseId}`);
    changes('license-another');
    // Before this process began, and from a log that went further.
    expect([await since(1), await since(2), await since(3), await since(0), await since(4)]).toEqual([[3, ['another', licenseId]], [3, ['another']], [3, []], [3, null], [3, null]]);
    answers.isAway = true;
    await expect(since(3)).rejects.toMatchObject({ code: 'READ_MODEL_BEHIND' });
  });

  it('is never answered before the log was asked how far it goes', async () => {
    const { find, counted } = cacheOverANetwork();
    await find();
    const before = counted.heads;
    await find();
    await find();
    expect(counted.heads).toBe(before + 2);
  });
});

it('Licenses with a long past that change in turn are each read on from what is known of them', async () => {
  const licenses = [1, 2, 3].map((n) => idOf('lic', n));
  const past = Array.from({ length: 4_000 }, (_, revision) => ({ id: `${revision}`, revision, position: 1, type: 'HeartbeatMissed', data: { activationId: idOf('act') }, metadata: { schema: 1 } }));
  let [head, read] = [1, 0];
  let show: Handler = () => undefined;
  const store = {
    head: async () => head,
    readStream: async (_: string, { from = 0, limit = 500 }) => {
      const page = past.slice(from, from + limit);
      read += page.length;
      return page;
    },
    subscribe: (_: number, handler: Handler) => {
      show = handler;
      return { position: 1, close: async () => undefined };
    },
  };
  const alone = <T>(one: object) => new PerEnvironment([['production', one]]) as T;
  const caches = await VerdictCaches.open(alone(store), alone({ prepare: async () => undefined }), {} as MessageClient, alone({ get: async () => undefined, put: async () => undefined }));
  const lookAtAll = () => runIn(systemContext('production', '2026-03-12T12:00:00.000Z'), async () => {
    for (const license of licenses) await caches.of('production').get(license);
  });
  await lookAtAll();
  expect(read).toBe(3 * past.length);
  for (const license of licenses) void show([{ stream: `license-${license}`, position: ++head } as RecordedEvent], head, 1);
  await lookAtAll();
  expect(read).toBe(3 * past.length);
});
