import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { LicenseOptions } from './api.ts';
import { License } from './license.ts';
import { fileStore } from './node.ts';
import type { WebLocks } from './shared.ts';
import { localStorageStore } from './store.ts';
import { problem, TestClock, Vendor } from './vendor.contract.ts';

/** Tabs of a browser: one storage, and the Web Locks of Node, which are those of the standard. */
const { locks } = navigator as unknown as { locks: WebLocks };
let clock: TestClock;
let vendor: Vendor;
let web: Map<string, string>;
let isFull = false;
let place: string;
const opened: License[] = [];
beforeEach(async () => {
  clock = new TestClock();
  vendor = await Vendor.open(clock);
  vendor.terms = { ...vendor.terms, validationMode: 'heartbeat' };
  web = new Map();
  isFull = false;
  place = `license-${crypto.randomUUID()}`;
});
afterEach(() => void jest.restoreAllMocks());
afterEach(() => Promise.all(opened.splice(0).map((license) => license.dispose())));

const storage = {
  get length() {
    return web.size;
  },
  key: (n: number) => [...web.keys()][n] ?? null, removeItem: (name: string) => void web.delete(name), getItem: (name: string) => web.get(name) ?? null,
  setItem: (name: string, value: string) => {
    if (isFull) throw new DOMException('The quota has been exceeded', 'QuotaExceededError');
    web.set(name, value);
  },
};
async function tab(options: Partial<LicenseOptions> = {}): Promise<License> {
  const license = await License.open({ key: vendor.licenseKey, server: 'https://licenses.example', roots: vendor.roots, store: localStorageStore(place, storage, locks), clock, fetch: vendor.fetch, attempts: 1, ...options });
  opened.push(license);
  return license;
}
const beats = () => vendor.asked.filter(({ path }) => path.endsWith('/heartbeat'));
const streams = () => vendor.asked.filter(({ path }) => path.endsWith('/stream')).length;
const used = () => vendor.asked.filter(({ path }) => path === '/license/usage').flatMap(({ body }) => (body as { records: { id: string; value: number }[] }).records);
/** Time passes until it is so, and open streams get signs of life. A turn waits behind signatures and checks under way, so that time passes for tabs no faster than they can work. */
async function until(isSo: () => boolean, step = 0): Promise<void> {
  for (let turn = 1; !isSo(); turn++) {
    if (turn % 20 === 0 && step > 0) vendor.tell(': a sign of life\n\n');
    if (turn % 20 === 0) clock.pass(step);
    await crypto.subtle.digest('SHA-256', new Uint8Array());
    await new Promise((resolve) => setImmediate(resolve));
  }
}
/** Two stores of a browser that has none. */
function withoutLocks() {
  Object.defineProperty(navigator, 'locks', { configurable: true, value: undefined });
  const stores = [localStorageStore(place, storage), localStorageStore(place, storage)] as const;
  delete (navigator as { locks?: unknown }).locks;
  return stores;
}
const leading = async (options: Partial<LicenseOptions> = {}) => {
  const leader = await tab(options);
  await leader.activate();
  leader.heartbeat.start({ leader: 'auto' });
  await until(() => leader.heartbeat.isLeader && web.get(place)?.includes('"answered":true') === true && beats().length === 1);
  return leader;
};

describe('Tabs that share a store', () => {
  it('have one leader, and another when that is closed', async () => {
    const [first, second] = await Promise.all([tab(), tab()]);
    expect(second.fingerprint).toBe(first.fingerprint);
    await first.activate();
    for (const license of [first, second]) license.heartbeat.start({ leader: 'auto' });
    await until(() => first.heartbeat.isLeader && second.instanceId === first.instanceId && second.judgement().valid, 2_000);
    expect([second.heartbeat.isLeader, beats().length]).toEqual([false, 1]);
    await first.dispose();
    await until(() => second.heartbeat.isLeader && beats().length === 2, 2_000);
    expect(beats().map(({ body }) => body['seq'])).toEqual([1, 2]);
    await second.dispose();
    expect([...web.keys()]).toEqual([place]);
  });

  it('give up the lead when their heartbeats are stopped', async () => {
    const [first, second] = [await leading(), await tab()];
    second.heartbeat.start({ leader: 'auto' });
    first.heartbeat.stop();
    await until(() => second.heartbeat.isLeader, 2_000);
    expect(first.heartbeat.isLeader).toBe(false);
    first.heartbeat.start({ leader: 'auto' });
    await first.heartbeat.beat();
    expect([first.heartbeat.isLeader, second.heartbeat.isLeader]).toEqual([false, true]);
  });

  it.each(['before they start', 'as soon as they have started'])('leave the lead and the stream to others for ever once they were disposed, %s', async (when) => {
    const ended = await tab();
    const seating = ended.activate();
    if (when === 'before they start') await ended.dispose();
    await seating;
    ended.heartbeat.start({ leader: 'auto' });
    ended.changes.start();
    await ended.dispose();
    const before = streams();
    ended.heartbeat.start({ leader: 'auto' });
    ended.changes.start();
    let turns = 0;
    await until(() => turns++ > 200, 2_000);
    expect(streams()).toBe(before);
    const living = await tab();
    living.heartbeat.start({ leader: 'auto' });
    await until(() => turns++ > 400, 2_000);
    expect([ended.heartbeat.isRunning, ended.heartbeat.isLeader, living.heartbeat.isLeader, vendor.listeners]).toEqual([false, false, true, 0]);
  });

  it('send no heartbeat and write no state while another one leads, whatever is called', async () => {
    await leading();
    const [text, other] = [web.get(place), await tab()];
    expect(await other.activate()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect(await other.heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true } });
    await other.validate();
    other.heartbeat.start();
    await other.heartbeat.beat();
    expect([web.get(place), beats().length]).toEqual([text, 1]);
  });

  it('hear of changes over one stream, which only the leader opens, and the next leader after it', async () => {
    const tabs = [await leading(), await tab(), await tab()] as const;
    for (const { heartbeat, changes } of tabs) {
      heartbeat.start({ leader: 'auto' });
      changes.start();
    }
    await until(() => tabs[0].changes.isConnected);
    let turns = 0;
    await until(() => turns++ > 200, 2_000);
    expect([streams(), vendor.listeners]).toEqual([1, 1]);

    vendor.verdict = { valid: false, code: 'SUSPENDED', reasons: ['SUSPENDED'], enforcement: 'LOCKED' };
    vendor.seq++;
    vendor.tellChange();
    await until(() => tabs.every((one) => one.judgement().code === 'SUSPENDED'), 2_000);
    expect(vendor.asked.filter(({ path }) => path.endsWith('/stream/ack')).map(({ body }) => body)).toEqual([{ seq: vendor.seq, activationId: 'act_1' }]);

    tabs[0].heartbeat.stop();
    await until(() => tabs.slice(1).some(({ heartbeat }) => heartbeat.isLeader), 2_000);
    await until(() => tabs.slice(1).some(({ changes }) => changes.isConnected));
    vendor.tell(': a sign of life\n\n');
    await until(() => !tabs[0].changes.isConnected && vendor.listeners === 1);
    await tabs.find(({ heartbeat }) => heartbeat.isLeader)?.dispose();
    await until(() => tabs.filter(({ changes }) => changes.isConnected).length === 1, 2_000);
    // While none leads, also the tab that does not want to may open one, until its next sign of life.
    await until(() => turns++ > 400, 2_000);
    const before = streams();
    await until(() => turns++ > 600, 2_000);
    expect([streams(), vendor.listeners]).toEqual([before, 1]);
  });

  it('hold no stream while the storage is full: those of all would take the connections that heartbeats need; and one again afterwards', async () => {
    const tabs = [await leading(), await tab(), await tab()];
    for (const { heartbeat, changes } of tabs) {
      heartbeat.start({ leader: 'auto' });
      changes.start();
    }
    await until(() => vendor.listeners === 1);
    isFull = true;
    await until(() => tabs.every(({ heartbeat }) => heartbeat.isLeader), 2_000);
    let turns = 0;
    await until(() => turns++ > 100, 2_000);
    const before = streams();
    await until(() => turns++ > 2_000, 2_000);
    expect([vendor.listeners, streams()]).toEqual([0, before]);
    isFull = false;
    await until(() => vendor.listeners === 1, 2_000);
    expect(tabs.filter(({ heartbeat }) => heartbeat.isLeader).map(({ changes }) => changes.isConnected)).toEqual([true]);
  });

  it('hear of changes to a seat as soon as another one has taken it', async () => {
    const [leader, other] = [await tab(), await tab()];
    leader.heartbeat.start({ leader: 'auto' });
    leader.changes.start();
    await until(() => leader.heartbeat.isLeader);
    let turns = 0;
    await until(() => turns++ > 2_000, 2_000);
    await other.activate();
    await until(() => leader.instanceId !== null, 2_000);
    await until(() => leader.changes.isConnected);
  });

  it('report the usage of a killed one, once', async () => {
    const [leader, killed] = [await leading(), await tab()];
    killed.quota('reports').tryConsume(2);
    await killed.dispose();
    expect([...web.keys()]).toEqual([place, expect.stringMatching(/\.told$/)]);
    await until(() => web.size === 1, 2_000);
    await leader.heartbeat.beat();
    expect(used()).toMatchObject([{ value: 2 }]);
  });

  it('go on from what any leader has written, also when none leads', async () => {
    const first = await leading();
    first.quota('reports').tryConsume();
    await until(() => web.get(place)?.includes('"meter":"reports"') === true);
    const [second, third] = [await tab(), await tab()];
    // The leader is held up for ever: its lock is taken from it.
    await (locks as unknown as { request(name: string, options: object, work: () => void): Promise<void> }).request(`${place}.lead`, { steal: true }, () => undefined);
    await second.validate();
    await second.heartbeat.beat();
    expect(used()).toHaveLength(1);
    await third.validate();
    await third.heartbeat.beat();
    expect(beats().map(({ body }) => body['seq'])).toEqual([1, 2, 3]);
  });

  it('take the lead from one that hangs, and never from one whose timers the browser wakes once a minute', async () => {
    const now = jest.spyOn(performance, 'now');
    const [one, other] = [localStorageStore(place, storage, locks), localStorageStore(place, storage, locks)];
    expect(await one.shared?.take()).toBe(true);
    for (let minutes = 0; minutes < 5; minutes++) {
      now.mockReturnValue(minutes * 60_000);
      await one.write(`text ${minutes}`);
      expect(await other.shared?.take()).toBe(false);
      now.mockReturnValue(minutes * 60_000 + 59_000);
      expect(await other.shared?.take()).toBe(false);
    }
    now.mockReturnValue(4 * 60_000 + 90_000);
    expect([await other.shared?.take(), await one.shared?.leader(), await one.shared?.take()]).toEqual([true, 'other', false]);
    await other.shared?.release();
  });

  it('go on from one that hangs, which has lost the lead when it goes on itself, and sends no heartbeat', async () => {
    const now = jest.spyOn(performance, 'now').mockReturnValue(0);
    const hung = new TestClock();
    const [first, second, conflict] = [await leading({ clock: hung, version: 'hung' }), await tab(), jest.fn()];
    first.on('conflict', conflict);
    second.heartbeat.start({ leader: 'auto' });
    let turns = 0;
    await until(() => turns++ > 100, 2_000);
    expect(second.heartbeat.isLeader).toBe(false);
    now.mockReturnValue(90_000);
    await until(() => second.heartbeat.isLeader && beats().length === 2, 2_000);
    hung.pass(7_200_000);
    await until(() => !first.heartbeat.isLeader, 2_000);
    await until(() => turns++ > 200, 2_000);
    expect(beats().filter(({ body }) => body['version'] === 'hung')).toHaveLength(1);
    expect([first.judgement().code, second.heartbeat.isLeader, conflict.mock.calls]).toEqual(['VALID', true, []]);
  });

  it.each(['node-locked', 'floating'] as const)('write nothing over the text of the next leader when they go on after hanging, and take no %s seat that it has given back', async (seats) => {
    vendor.terms = { ...vendor.terms, seats };
    const ending: typeof vendor.fetch = async (url, init) => vendor.fetch(url, init).finally(() => url.endsWith('/license/deactivate') && vendor.lapse());
    const [now, hung] = [jest.spyOn(performance, 'now').mockReturnValue(0), new TestClock()];
    const [first, second] = [await leading({ clock: hung, fetch: ending }), await tab({ fetch: ending })];
    second.heartbeat.start({ leader: 'auto' });
    let turns = 0;
    await until(() => turns++ > 100, 2_000);
    const [goOn, sign] = [Promise.withResolvers<void>(), crypto.subtle.sign.bind(crypto.subtle)];
    const sealing = jest.spyOn(crypto.subtle, 'sign').mockImplementationOnce((...args) => goOn.promise.then(() => sign(...args)));
    first.quota('reports').tryConsume();
    await until(() => sealing.mock.calls.length === 1);
    sealing.mockRestore();

    now.mockReturnValue(90_000);
    await until(() => second.heartbeat.isLeader && beats().length === 2, 2_000);
    expect(await second.deactivate()).toEqual({ ok: true });
    await until(() => turns++ > 400);
    const text = web.get(place);
    expect(text).toContain('"instanceId":null');
    goOn.resolve();
    await until(() => turns++ > 600);
    expect(web.get(place)).toBe(text);
    const before = vendor.asked.length;
    hung.pass(7_200_000);
    await until(() => first.instanceId === null, 2_000);
    await until(() => turns++ > 1_000, 2_000);
    expect([vendor.asked.slice(before).filter(({ path }) => path !== '/license/usage'), first.instanceId, second.instanceId]).toEqual([[], null, null]);
  });

  it('go on from the next leader also if that has ended before the one that hung goes on', async () => {
    const [now, hung, conflict] = [jest.spyOn(performance, 'now').mockReturnValue(0), new TestClock(), jest.fn()];
    const [first, second] = [await leading({ clock: hung }), await tab()];
    first.on('conflict', conflict);
    second.heartbeat.start({ leader: 'auto' });
    let turns = 0;
    await until(() => turns++ > 100, 2_000);
    now.mockReturnValue(90_000);
    await until(() => second.heartbeat.isLeader && beats().length === 2, 2_000);
    for (let n = 0; n < 2; n++) await second.heartbeat.beat();
    await second.dispose();
    const before = beats().length;
    hung.pass(2_000);
    await until(() => beats().length > before || turns++ > 2_000);
    for (let n = 0; n < 2; n++) await first.heartbeat.beat();
    const numbers = beats().map(({ body }) => body['seq']);
    expect([numbers.length > before + 1, numbers, conflict.mock.calls]).toEqual([true, numbers.map((_, n) => n + 1), []]);
  });

  it('know of one that was robbed of the lead as soon as it asks, although its lock tells it only later', async () => {
    const [held, robbed] = [`${place}.lead`, Promise.withResolvers<never>()];
    let isRobbed = false;
    const telling: WebLocks = {
      request: (_name, _options, work) => {
        void work({});
        return robbed.promise;
      },
      query: async () => {
        if (isRobbed) robbed.reject(new DOMException('The lock was stolen', 'AbortError'));
        return { held: isRobbed ? [{ name: held }] : [] };
      },
    };
    const { shared } = localStorageStore(place, storage, telling);
    expect([await shared?.take(), await shared?.leader()]).toEqual([true, 'self']);
    isRobbed = true;
    expect(await shared?.leader()).toBe('other');
  });

  it('all send heartbeats while the storage is full, none is taken for a clone, and afterwards one leads again', async () => {
    vendor.terms = { ...vendor.terms, offlineGraceDays: 1 };
    const [tabs, conflict] = [[await leading(), await tab(), await tab()], jest.fn()];
    for (const one of tabs) {
      one.on('conflict', conflict);
      one.heartbeat.start({ leader: 'auto' });
    }
    let turns = 0;
    await until(() => turns++ > 100, 2_000);
    isFull = true;
    for (let hours = 0; hours < 30; hours++) {
      await until(() => turns++ % 100 === 0, 2_000);
      clock.pass(3_600_000);
    }
    expect(tabs.map((one) => one.judgement().code)).toEqual(['VALID', 'VALID', 'VALID']);
    isFull = false;
    await until(() => tabs.filter(({ heartbeat }) => heartbeat.isLeader).length === 1, 2_000);
    for (let hours = 0; hours < 3; hours++) {
      clock.pass(3_600_000);
      for (const { heartbeat } of tabs) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID' } });
    }
    expect(conflict.mock.calls).toEqual([]);
  });

  it('send their own heartbeats while a tab with another key leads, and one leads when that is closed', async () => {
    const [first, other, conflict] = [await leading(), await Vendor.open(clock), jest.fn()];
    other.terms = { ...vendor.terms, id: 'lic_2', offlineGraceDays: 1 };
    const tabs: License[] = [];
    for (let n = 0; n < 2; n++) {
      const one = await tab({ key: 'KEY-2', roots: other.roots, fetch: other.fetch });
      tabs.push(one);
      one.on('conflict', conflict);
      await one.activate();
      one.heartbeat.start({ leader: 'auto' });
      one.changes.start();
    }
    let turns = 0;
    for (let hours = 0; hours < 30; hours++) {
      await until(() => turns++ % 100 === 0, 2_000);
      clock.pass(3_600_000);
    }
    expect([first, ...tabs].map(({ heartbeat }) => heartbeat.isLeader)).toEqual([true, false, false]);
    expect([first, ...tabs].map((one) => one.judgement().code)).toEqual(['VALID', 'VALID', 'VALID']);
    expect(other.listeners).toBe(0);
    await first.dispose();
    await until(() => tabs.filter(({ heartbeat }) => heartbeat.isLeader).length === 1 && other.listeners === 1, 2_000);
    for (const { heartbeat } of [...tabs, ...tabs]) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID' } });
    expect(conflict.mock.calls).toEqual([]);
  });

  it('send their own heartbeats at once beside a tab with another key, whatever it writes', async () => {
    await leading({ clock: new TestClock() });
    const other = await Vendor.open(clock);
    const beside = await tab({ key: 'KEY-2', roots: other.roots, fetch: other.fetch });
    await beside.activate();
    beside.heartbeat.start({ leader: 'auto' });
    let turns = 0;
    await until(() => other.asked.some(({ path }) => path.endsWith('/heartbeat')) || turns++ > 2_000, 2_000);
    expect(other.asked.filter(({ path }) => path.endsWith('/heartbeat'))).toHaveLength(1);
  });

  it.each(['the leader', 'another one'])('do not take again a seat that %s has given back', async (who) => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
    /** The server answers late, and other tabs hear of it before. */
    const slowly: typeof vendor.fetch = async (url, init) => {
      if (!url.endsWith('/deactivate')) return vendor.fetch(url, init);
      vendor.lapse();
      await waiting.validate();
      let turns = 0;
      await until(() => turns++ > 200, 2_000);
      return vendor.fetch(url, init);
    };
    const [leader, other] = [await leading({ fetch: slowly }), await tab({ fetch: slowly })];
    other.heartbeat.start({ leader: 'auto' });
    const [giving, waiting] = who === 'another one' ? [other, leader] : [leader, other];
    await until(() => waiting.instanceId !== null, 2_000);
    expect(await giving.deactivate()).toEqual({ ok: true });
    // Before its next look after the others.
    waiting.heartbeat.hurry();
    let turns = 0;
    await until(() => turns++ > 200);
    await until(() => waiting.instanceId === null, 2_000);
    await until(() => turns++ > 600, 2_000);
    expect([vendor.asked.filter(({ path }) => path === '/license/activate').length, giving.instanceId, waiting.instanceId]).toEqual([1, null, null]);
  });

  it('take a floating seat anew that has lapsed, also after one of them ended while it gave the seat back', async () => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
    let isSlow = false;
    const slowly: typeof vendor.fetch = async (url, init) => (isSlow && url.endsWith('/license/validate') ? new Promise<never>((_, reject) => init.signal?.addEventListener('abort', () => reject(new Error('aborted')))) : vendor.fetch(url, init));
    const first = await leading({ fetch: slowly });
    isSlow = true;
    void first.deactivate();
    await until(() => web.get(place)?.includes('"leaving":"act_1"') === true);
    await first.dispose();
    const tabs = [await tab(), await tab()];
    for (const one of tabs) one.heartbeat.start({ leader: 'auto' });
    await until(() => tabs.some(({ heartbeat }) => heartbeat.isLeader), 2_000);
    for (const one of tabs) one.quota('reports').tryConsume();
    let turns = 0;
    await until(() => turns++ > 400, 2_000);
    vendor.lapse();
    // The one that leads asks a moment later: what it hears is newer, though of the same second.
    for (const one of tabs.toSorted((a, b) => Number(a.heartbeat.isLeader) - Number(b.heartbeat.isLeader))) {
      await one.validate();
      clock.pass(300);
    }
    await until(() => tabs.every((one) => one.instanceId === 'act_2' && one.judgement().valid), 30_000);
    expect(vendor.asked.filter(({ path }) => path === '/license/activate')).toHaveLength(2);
  });

  it('are told of a seat that was given back beside the store as well, where another may write over that', async () => {
    const stores = withoutLocks();
    const [giving, other] = [await tab({ store: stores[0] }), await tab({ store: stores[1] })];
    for (const one of [giving, other]) {
      await one.activate();
      one.heartbeat.start({ leader: 'auto' });
    }
    await until(() => beats().length >= 2);
    expect(await giving.deactivate()).toEqual({ ok: true });
    expect([...web].filter(([name, text]) => name !== place && text.includes('"leaving":"act_1"') && text.includes('"instanceId":null'))).toHaveLength(1);
  });

  it('do not take again a seat that is being given back where the browser has no Web Locks', async () => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
    /** The server answers late: another tab has asked by then, and has written the store. */
    const slowly: typeof vendor.fetch = async (url, init) => {
      if (!url.endsWith('/deactivate')) return vendor.fetch(url, init);
      vendor.lapse();
      await waiting.validate();
      let turns = 0;
      await until(() => turns++ > 400, 2_000);
      return vendor.fetch(url, init);
    };
    const stores = withoutLocks();
    const [giving, waiting] = [await tab({ store: stores[0], fetch: slowly }), await tab({ store: stores[1], fetch: slowly })];
    for (const one of [giving, waiting]) {
      await one.activate();
      one.heartbeat.start({ leader: 'auto' });
    }
    await until(() => beats().length >= 2);
    expect(await giving.deactivate()).toEqual({ ok: true });
    waiting.heartbeat.hurry();
    let turns = 0;
    await until(() => waiting.instanceId === null, 2_000);
    await until(() => turns++ > 600, 2_000);
    expect([vendor.asked.filter(({ path }) => path === '/license/activate').length, giving.instanceId, waiting.instanceId]).toEqual([2, null, null]);
    expect([...web.keys()].filter((name) => name.endsWith('.told'))).toEqual([]);
  });

  it('hear at once of a seat that another one has given back, in the store that both write', async () => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
    const stores = withoutLocks();
    const [giving, other] = [await tab({ store: stores[0] }), await tab({ store: stores[1] })];
    for (const one of [giving, other]) await one.activate();
    other.heartbeat.start({ leader: 'auto' });
    await until(() => beats().length === 1);
    expect(await giving.deactivate()).toEqual({ ok: true });
    vendor.lapse();
    await other.validate();
    let turns = 0;
    await until(() => turns++ > 400, 2_000);
    expect(vendor.asked.filter(({ path }) => path === '/license/activate')).toHaveLength(2);
  });

  it('hear of a seat that was given back, also by one that ended right after', async () => {
    const [leader, other] = [await leading(), await tab()];
    expect(await other.deactivate()).toEqual({ ok: true });
    await other.dispose();
    await until(() => leader.instanceId === null, 2_000);
    await until(() => web.size === 1, 2_000);
  });

  it('hear of a seat that was given back while a heartbeat for it is under way', async () => {
    const held = Promise.withResolvers<void>();
    let isHeld = false;
    const slowly: typeof vendor.fetch = async (url, init) => {
      const answer = await vendor.fetch(url, init);
      if (!url.endsWith('/heartbeat') || beats().length === 1) return answer;
      isHeld = true;
      return held.promise.then(() => answer);
    };
    const [leader, other] = [await leading({ fetch: slowly }), await tab()];
    const beat = leader.heartbeat.beat();
    await until(() => isHeld);
    expect(await other.deactivate()).toEqual({ ok: true });
    await until(() => leader.instanceId === null, 2_000);
    held.resolve();
    expect(await beat).toMatchObject({ ok: false, code: 'NOT_ACTIVATED' });
    expect([leader.instanceId, other.instanceId]).toEqual([null, null]);
    expect(web.get(place)).toContain('"instanceId":null');
  });

  it('go on when the seat could not be given back', async () => {
    vendor.terms = { ...vendor.terms, seats: 'floating' };
    const [leader, other] = [await leading(), await tab()];
    vendor.between = (path) => (path === '/license/deactivate' ? new TypeError('fetch failed') : undefined);
    expect(await other.deactivate()).toMatchObject({ ok: false, code: 'UNREACHABLE' });
    vendor.lapse();
    await leader.validate();
    await until(() => leader.instanceId === 'act_2', 2_000);
  });

  it('lead even if the state cannot be read or written', async () => {
    const denied = () => { throw new Error('denied'); };
    const storage = { length: 0, key: () => null, removeItem: denied, getItem: denied, setItem: denied };
    const license = await tab({ store: localStorageStore(place, storage, locks) });
    await license.activate();
    license.heartbeat.start({ leader: 'auto' });
    await until(() => license.heartbeat.isLeader && beats().length === 1);
    expect(license.judgement().valid).toBe(true);
  });

  it.each([{ leader: 'auto' } as const, {}])('all send heartbeats (%j) where the browser blocks storage, and none is taken for a clone', async (options) => {
    Object.defineProperty(globalThis, 'localStorage', { configurable: true, value: null });
    const stores = [localStorageStore(), localStorageStore()];
    delete (globalThis as { localStorage?: unknown }).localStorage;
    const [conflict, tabs] = [jest.fn(), await Promise.all(stores.map((store) => tab({ store, fingerprint: 'machine-1' })))];
    for (const one of tabs) {
      one.on('conflict', conflict);
      await one.activate();
      one.heartbeat.start(options);
    }
    await until(() => beats().length >= 2);
    for (const { heartbeat } of [...tabs, ...tabs, ...tabs]) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect([conflict.mock.calls, tabs.map(({ isStored }) => isStored)]).toEqual([[], [false, false]]);
  });

  it('warn once of a storage that the browser blocks, and again when it fails anew', async () => {
    let isBlocked = true;
    const kept = localStorageStore(place, storage, locks);
    const gate = <T>(step: () => T): T => {
      if (isBlocked) throw new DOMException('Access is denied', 'SecurityError');
      return step();
    };
    const warn = jest.fn();
    const license = await tab({ store: { ...kept, read: () => gate(kept.read), write: (text) => gate(() => kept.write(text)) }, logger: { warn } });
    await license.activate();
    license.heartbeat.start({ leader: 'auto' });
    await until(() => license.heartbeat.isLeader);
    for (let n = 0; n < 5; n++) await license.heartbeat.beat();
    const count = warn.mock.calls.length;
    for (let n = 0; n < 5; n++) await license.heartbeat.beat();
    expect([count < 6, warn.mock.calls.length]).toEqual([true, count]);
    isBlocked = false;
    await license.heartbeat.beat();
    isBlocked = true;
    await license.heartbeat.beat();
    expect(warn.mock.calls.length).toBeGreaterThan(count);
  });

  it.each(['the leader', 'another one'])('warn once of others that %s cannot look after, and again when that fails anew', async (who) => {
    let isBlocked = false;
    const kept = localStorageStore(place, storage, locks);
    const read = () => {
      if (isBlocked) throw new DOMException('Access is denied', 'SecurityError');
      return kept.read();
    };
    const warn = jest.fn();
    const store = { ...kept, read };
    const license = who === 'the leader' ? await leading({ store, logger: { warn } }) : (await leading(), await tab({ store, logger: { warn } }));
    license.heartbeat.start({ leader: 'auto' });
    const warnings = () => warn.mock.calls.filter(([message]) => String(message).includes('cannot be looked after')).length;
    for (const count of [1, 2]) {
      isBlocked = true;
      for (let n = 0, turns = 0; n < 5; n++, turns = 0) {
        await license.heartbeat.beat();
        await until(() => turns++ > 60, 2_000);
      }
      expect(warnings()).toBe(count);
      isBlocked = false;
      await license.heartbeat.beat();
      let turns = 0;
      await until(() => turns++ > 60, 2_000);
    }
  });

  it('all send heartbeats where the browser has no Web Locks, none is taken for a clone, and the state is kept', async () => {
    const [conflict, tabs] = [jest.fn(), await Promise.all(withoutLocks().map((store) => tab({ store })))];
    expect(new Set(tabs.map(({ fingerprint }) => fingerprint)).size).toBe(1);
    for (const one of tabs) {
      one.on('conflict', conflict);
      await one.activate();
      one.heartbeat.start({ leader: 'auto' });
    }
    await until(() => beats().length >= 2);
    for (const { heartbeat } of [...tabs, ...tabs, ...tabs]) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { valid: true } });
    expect([conflict.mock.calls, tabs.map(({ isStored }) => isStored), web.get(place)?.includes('act_1')]).toEqual([[], [true, true], true]);
  });

  it('go by the license that was installed last, and forget a seat that was given back', async () => {
    const [leader, other] = [await leading(), await tab()];
    vendor.terms = { ...vendor.terms, id: 'lic_2', validationMode: 'offline' };
    expect(await other.install(await vendor.licenseFile(), { replace: true })).toMatchObject({ ok: true });
    await until(() => leader.licenseId === 'lic_2', 2_000);
    await other.activate();
    await until(() => leader.instanceId !== null, 2_000);
    expect(await leader.deactivate()).toEqual({ ok: true });
    await until(() => other.instanceId === null, 2_000);
  });
});

describe('Processes that share a folder', () => {
  const folder = mkdtempSync(join(tmpdir(), 'keyledger-sdk-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('lead and write at once if the leader was killed long ago, and report the usage of others that were', async () => {
    const path = join(folder, 'license');
    const names = () => readdirSync(folder).filter((name) => name.startsWith('license')).toSorted();
    const killed = await tab({ store: fileStore(path) });
    await killed.activate();
    killed.heartbeat.start({ leader: 'auto' });
    await until(() => killed.heartbeat.isLeader && beats().length === 1);
    const other = await tab({ store: fileStore(path) });
    other.quota('reports').tryConsume(2);
    await other.dispose();
    const told = names().find((name) => name.endsWith('.told')) ?? '';
    expect(names()).toEqual(['license', told, 'license.lead-1'].toSorted());

    const anHourAgo = new Date(Date.now() - 3_600_000);
    for (const name of [told, 'license.lead-1']) utimesSync(join(folder, name), anHourAgo, anHourAgo);
    const short = await tab({ store: fileStore(path) });
    short.heartbeat.start({ leader: 'auto' });
    await until(() => used().length > 0);
    expect([short.heartbeat.isLeader, used()]).toMatchObject([true, [{ value: 2 }]]);
    await short.dispose();
    expect([names(), readFileSync(path, 'utf8').includes('"outbox":[]')]).toEqual([['license', 'license.lead-2'], true]);
  });

  it('all go on while nothing can be written there, and none is taken for a clone', async () => {
    vendor.terms = { ...vendor.terms, offlineGraceDays: 1 };
    writeFileSync(join(folder, 'no-folder'), '');
    const conflict = jest.fn();
    const workers = await Promise.all(Array.from({ length: 4 }, () => tab({ store: fileStore(join(folder, 'no-folder', 'license')), fingerprint: 'machine-1' })));
    for (const worker of workers) {
      worker.on('conflict', conflict);
      await worker.activate();
      worker.heartbeat.start({ leader: 'auto' });
    }
    await until(() => workers.every(({ heartbeat }) => heartbeat.isLeader));
    for (let hours = 0; hours < 30; hours++) {
      clock.pass(3_600_000);
      expect((await Promise.all(workers.map(({ heartbeat }) => heartbeat.beat()))).map(({ ok }) => ok)).toEqual([true, true, true, true]);
    }
    expect([workers.map((worker) => worker.judgement().code), conflict.mock.calls]).toEqual([['VALID', 'VALID', 'VALID', 'VALID'], []]);
    // Whatever is answered, it asks no more often than that.
    vendor.between = (path) => (path.endsWith('/heartbeat') ? problem(409, 'STALE_SEQUENCE', { lastSeq: 1_000 }) : undefined);
    const [before, [worker]] = [beats().length, workers];
    await Promise.all(workers.slice(1).map((one) => one.dispose()));
    expect(await worker?.heartbeat.beat()).toMatchObject({ ok: false, code: 'STALE_SEQUENCE' });
    expect(beats().length - before).toBeLessThan(10);
    vendor.mend();
    expect(await worker?.heartbeat.beat()).toMatchObject({ ok: true });
  });

  it('hear of changes also while nothing can be written there: they share no connections', async () => {
    writeFileSync(join(folder, 'no-place'), '');
    const workers = await Promise.all(Array.from({ length: 2 }, () => tab({ store: fileStore(join(folder, 'no-place', 'license')), fingerprint: 'machine-1' })));
    for (const worker of workers) {
      await worker.activate();
      worker.heartbeat.start({ leader: 'auto' });
      worker.changes.start();
    }
    await until(() => workers.every(({ heartbeat }) => heartbeat.isLeader) && vendor.listeners === 2, 2_000);
    let turns = 0;
    await until(() => turns++ > 200, 2_000);
    expect(vendor.listeners).toBe(2);
  });

  it('have one leader again once something can be written there, which counts on from the others', async () => {
    const away = join(folder, 'away');
    writeFileSync(away, '');
    const conflict = jest.fn();
    const workers = await Promise.all(Array.from({ length: 3 }, () => tab({ store: fileStore(join(away, 'license')), fingerprint: 'machine-1' })));
    for (const worker of workers) {
      worker.on('conflict', conflict);
      await worker.activate();
      worker.heartbeat.start({ leader: 'auto' });
    }
    await until(() => workers.every(({ heartbeat }) => heartbeat.isLeader));
    // Each process has had a heartbeat accepted, and is behind the next one.
    for (const { heartbeat } of workers) expect(await heartbeat.beat()).toMatchObject({ ok: true });
    rmSync(away);
    await until(() => workers.filter(({ heartbeat }) => heartbeat.isLeader).length === 1, 2_000);
    for (let hours = 0; hours < 3; hours++) {
      clock.pass(3_600_000);
      for (const { heartbeat } of workers) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID' } });
    }
    expect(conflict.mock.calls).toEqual([]);
  });

  it.each([['for a moment', 10_000, 1], ['for long', 50, 2]])('have one leader after the folder was away %s', async (_, takeOverMs, leaders) => {
    const [place, gone] = [join(folder, `place-${takeOverMs}`), join(folder, `gone-${takeOverMs}`)];
    const conflict = jest.fn();
    const workers = await Promise.all(Array.from({ length: 2 }, () => tab({ store: fileStore(join(place, 'license'), { takeOverMs }), fingerprint: 'machine-1' })));
    await workers[0]?.activate();
    for (const worker of workers) {
      worker.on('conflict', conflict);
      worker.heartbeat.start({ leader: 'auto' });
      await until(() => workers[0]?.heartbeat.isLeader === true && beats().length > 0);
    }
    await until(() => workers[1]?.instanceId !== null, takeOverMs / 5);
    const leading = () => workers.filter(({ heartbeat }) => heartbeat.isLeader).length;
    renameSync(place, gone);
    writeFileSync(place, '');
    for (const end = performance.now() + 200; performance.now() < end;) await until(() => clock.wakes(takeOverMs / 5)).then(() => clock.pass(takeOverMs / 5));
    await until(() => leading() === leaders);
    for (const { heartbeat } of [...workers, ...workers]) expect(await heartbeat.beat()).toMatchObject({ ok: true });
    rmSync(place);
    renameSync(gone, place);
    await until(() => leading() === 1, takeOverMs / 5);
    for (let hours = 0; hours < 3; hours++) {
      clock.pass(3_600_000);
      for (const { heartbeat } of workers) expect(await heartbeat.beat()).toMatchObject({ ok: true, judgement: { code: 'VALID' } });
    }
    expect(conflict.mock.calls).toEqual([]);
  });

  it('are told apart from a clone, which has a copy of the folder', async () => {
    const path = join(folder, 'original');
    const original = await tab({ store: fileStore(path) });
    await original.activate();
    original.heartbeat.start({ leader: 'auto' });
    await until(() => original.heartbeat.isLeader && beats().length === 1 && readFileSync(path, 'utf8').includes('"answered":true'));
    writeFileSync(join(folder, 'copy'), readFileSync(path));
    const clone = await tab({ store: fileStore(join(folder, 'copy')) });
    clone.heartbeat.start({ leader: 'auto' });
    await until(() => clone.heartbeat.isLeader && beats().length === 2);
    const conflict = jest.fn();
    original.on('conflict', conflict);
    expect([await original.heartbeat.beat(), await original.heartbeat.beat()]).toMatchObject([{ code: 'STALE_SEQUENCE' }, { code: 'STALE_SEQUENCE' }]);
    expect([conflict.mock.calls.length, beats().length]).toEqual([1, 3]);
  });
});
