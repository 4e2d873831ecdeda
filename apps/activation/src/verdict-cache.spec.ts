import { describe, expect, it } from '@jest/globals';
import { issued, License } from '@keyledger/domain';
import type { EventStore, RecordedEvent, Subscription } from '@keyledger/event-store';
import type { LicenseId } from '@keyledger/kernel';
import type { Keyring } from '@keyledger/keyring';
import type { MessageClient } from '@keyledger/messaging';
import { idOf, issue, licenseKey, scenarios } from '@keyledger/testing';
import { VerdictCache } from './verdict-cache.ts';

const { story, stateOf } = scenarios(License, '2026-03-12T12:00:00.000Z');
const key = licenseKey();
const licenseId = idOf('lic');
const state = issued(stateOf(story(issue({ key }))));

/** A license in a log that takes a question to be asked for its head, as in another process. */
function cacheOverANetwork() {
  const counted = { heads: 0, loads: 0 };
  /** Comes between what is read and its arrival. */
  const held = { meanwhile: () => undefined as void };
  let head = 1;
  let show: (events: readonly RecordedEvent[]) => void = () => undefined;
  const store = {
    head: async () => (counted.heads++, head),
    subscribe: (_after: number, handler: typeof show) => {
      show = handler;
      return { position: 1, close: async () => undefined } satisfies Subscription;
    },
  } as unknown as EventStore;
  const cache = new VerdictCache(
    { keyHash: () => key.hash } as unknown as Keyring, { send: async () => ({ licenseId, retired: false }) } as unknown as MessageClient, store,
    async () => {
      const known = { state, revision: ++counted.loads };
      held.meanwhile();
      return known;
    }, head,
  );
  const changes = (stream: string) => show([{ stream, position: ++head } as RecordedEvent]);
  return { cache, counted, held, changes, find: async () => (await cache.find(key.value)).license?.revision, get: async () => (await cache.get(licenseId)).revision };
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

  it('is never answered before the log was asked how far it goes', async () => {
    const { find, counted } = cacheOverANetwork();
    await find();
    const before = counted.heads;
    await find();
    await find();
    expect(counted.heads).toBe(before + 2);
  });
});
