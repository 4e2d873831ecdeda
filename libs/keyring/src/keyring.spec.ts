import { randomBytes } from 'node:crypto';
import { describe, expect, it } from '@jest/globals';
import type { JsonObject } from '@keyledger/kernel';
import fc from 'fast-check';
import { decrypt } from './cipher.ts';
import { MemoryDataKeys, type DataKeyStore, type WrappedKeys } from './data-keys.ts';
import { Keyring } from './keyring.ts';

const masterKey = randomBytes(32);
const open = (dataKeys: DataKeyStore = new MemoryDataKeys(), options: { masterKey?: Uint8Array; environment?: string; cachedKeys?: number } = {}) =>
  Keyring.open({ masterKey, environment: 'production', dataKeys, ...options });
const ada: JsonObject = { name: 'Ada Lovelace', email: 'ada@example.com', metadata: { vip: true } };

/** Holds back what it has already read, until told to answer: the way a slow database does. */
class SlowDataKeys extends MemoryDataKeys {
  calls: string[] = [];
  release: () => void = () => undefined;
  #gate: Promise<void> | undefined;

  hold(): void {
    this.#gate = new Promise((resolve) => {
      this.release = resolve;
    });
  }

  override async get(subjects: readonly string[]): Promise<WrappedKeys> {
    this.calls.push(`get ${subjects.length}`);
    const rows = await super.get(subjects);
    await this.#gate;
    return rows;
  }

  override async insert(keys: ReadonlyMap<string, string>): Promise<WrappedKeys> {
    this.calls.push(`insert ${keys.size}`);
    return super.insert(keys);
  }
}

describe('A keyring', () => {
  it('opens whatever it sealed', async () => {
    const sealer = await (await open()).prepare(['cus_1'], true);
    const object = fc.dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue()).map((value) => JSON.parse(JSON.stringify(value)) as JsonObject);
    fc.assert(fc.property(object, (value) => {
      expect(sealer.open('cus_1', sealer.seal('cus_1', value))).toEqual(value);
    }), { numRuns: 500 });
  });

  it('seals the same value differently each time, and shows nothing of it', async () => {
    const store = new MemoryDataKeys();
    const sealer = await (await open(store)).prepare(['cus_1'], true);
    const sealed = new Set(Array.from({ length: 1000 }, () => sealer.seal('cus_1', ada)));
    expect(sealed.size).toBe(1000);
    for (const text of [...sealed, ...store.rows.values()]) {
      expect(text).toMatch(/^[A-Za-z0-9_-]+$/);
      expect(Buffer.from(text ?? '', 'base64url').toString('latin1')).not.toContain('example');
    }
  });

  it('tells from a probe whether a master key is the one of the stored data keys, in this environment', async () => {
    const store = new MemoryDataKeys();
    expect(await Keyring.probe(store)).toBeUndefined();
    await open(store);
    const probe = (await Keyring.probe(store)) as string;
    expect(Keyring.fits(probe, { masterKey, environment: 'production' })).toBe(true);
    expect(Keyring.fits(probe, { masterKey: randomBytes(32), environment: 'production' })).toBe(false);
    expect(Keyring.fits(probe, { masterKey, environment: 'staging' })).toBe(false);
    expect(Keyring.fits('damaged', { masterKey, environment: 'production' })).toBe(false);
  });

  it('has a key of its own for each subject and does not open one for another', async () => {
    const sealer = await (await open()).prepare(['cus_1', 'cus_2'], true);
    expect(() => sealer.open('cus_2', sealer.seal('cus_1', ada))).toThrow();
  });

  it('notices every changed byte', async () => {
    const sealer = await (await open()).prepare(['cus_1'], true);
    const sealed = Buffer.from(sealer.seal('cus_1', ada), 'base64url');
    for (const at of sealed.keys()) {
      const changed = Buffer.from(sealed);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(() => sealer.open('cus_1', changed.toString('base64url'))).toThrow();
    }
    expect(() => sealer.open('cus_1', sealed.subarray(0, -1).toString('base64url'))).toThrow();
    expect(() => sealer.open('cus_1', '')).toThrow();
  });

  it('opens after a restart what was sealed before', async () => {
    const store = new MemoryDataKeys();
    const sealed = (await (await open(store)).prepare(['cus_1'], true)).seal('cus_1', ada);
    expect((await (await open(store)).prepare(['cus_1'])).open('cus_1', sealed)).toEqual(ada);
  });

  it('does not start with another master key, nor on the keys of another environment', async () => {
    const store = new MemoryDataKeys();
    await open(store);
    await expect(open(store, { masterKey: randomBytes(32) })).rejects.toThrow('KEYLEDGER_MASTER_KEY');
    await expect(open(store, { environment: 'staging' })).rejects.toThrow('staging');
  });

  it('does not open a data key that was moved to another subject or environment', async () => {
    const store = new MemoryDataKeys();
    await (await open(store)).prepare(['cus_1'], true);
    store.rows.set('cus_2', store.rows.get('cus_1') ?? null);
    const keyring = await open(store);
    await expect(keyring.prepare(['cus_2'])).rejects.toThrow('cus_2');
    const staging = new MemoryDataKeys();
    const other = await open(staging, { environment: 'staging' });
    staging.rows.set('cus_1', store.rows.get('cus_1') ?? null);
    await expect(other.prepare(['cus_1'])).rejects.toThrow('cus_1');
  });

  it('one damaged data key is no trouble for who asks for others at the same time', async () => {
    const store = new MemoryDataKeys();
    const keyring = await open(store);
    store.rows.set('cus_bad', 'damaged');
    const [bad, good] = await Promise.allSettled([keyring.prepare(['cus_bad']), keyring.prepare(['cus_good'], true)]);
    expect([bad.status, good.status]).toEqual(['rejected', 'fulfilled']);
  });

  it('does not call data erased whose key was lost', async () => {
    const store = new MemoryDataKeys();
    const sealed = (await (await open(store)).prepare(['cus_1'], true)).seal('cus_1', ada);
    store.rows.delete('cus_1');
    const sealer = await (await open(store)).prepare(['cus_1']);
    expect(() => sealer.open('cus_1', sealed)).toThrow('no data key of cus_1');
    expect(() => sealer.seal('cus_1', ada)).toThrow('no data key of cus_1');
  });

  it('answers at once when it has the keys, and keeps no more of them than it was told to', async () => {
    const keyring = await open(undefined, { cachedKeys: 3 });
    await keyring.prepare(['a', 'b', 'c'], true);
    expect(keyring.prepare(['a', 'b', 'c'])).not.toBeInstanceOf(Promise);
    await keyring.prepare(['d'], true);
    expect(keyring.prepare(['a'])).toBeInstanceOf(Promise);
  });

  it('has the keys it knew beside those it has to ask for', async () => {
    const keyring = await open();
    const sealed = (await keyring.prepare(['cus_1'], true)).seal('cus_1', ada);
    expect((await keyring.prepare(['cus_1', 'cus_2'], true)).open('cus_1', sealed)).toEqual(ada);
  });

  it('makes the keys of many new subjects with one write', async () => {
    const store = new SlowDataKeys();
    const keyring = await open(store);
    store.calls = [];
    const subjects = Array.from({ length: 500 }, (_, i) => `lic_${i}`);
    await Promise.all(subjects.map((subject) => keyring.prepare([subject], true)));
    expect(store.calls.filter((call) => call.startsWith('insert'))).toEqual(['insert 500']);
  });

  it('agrees with another process on the key of a subject that is new to both', async () => {
    const store = new MemoryDataKeys();
    const [one, two] = await Promise.all([open(store), open(store)]);
    const [first, second] = await Promise.all([one.prepare(['cus_1'], true), two.prepare(['cus_1'], true)]);
    expect(second.open('cus_1', first.seal('cus_1', ada))).toEqual(ada);
  });

  it('passes on the trouble of its store, and works again after it', async () => {
    const store = new MemoryDataKeys();
    const keyring = await open(store);
    const { get } = store;
    store.get = () => Promise.reject(new Error('gone'));
    await expect(Promise.resolve(keyring.prepare(['cus_1']))).rejects.toThrow('gone');
    store.get = get;
    await expect(keyring.prepare(['cus_1'], true)).resolves.toBeDefined();
  });
});

describe('A subject that was shredded', () => {
  const shredded = async () => {
    const store = new SlowDataKeys();
    const keyring = await open(store);
    const sealed = (await keyring.prepare(['cus_1'], true)).seal('cus_1', ada);
    await keyring.shred('cus_1');
    return { store, keyring, sealed };
  };

  it('opens to null, here and after a restart', async () => {
    const { store, keyring, sealed } = await shredded();
    expect((await keyring.prepare(['cus_1'])).open('cus_1', sealed)).toBeNull();
    expect((await (await open(store)).prepare(['cus_1'])).open('cus_1', sealed)).toBeNull();
    expect(store.rows.get('cus_1')).toBeNull();
  });

  it('gets no new key, here or after a restart', async () => {
    const { store, keyring, sealed } = await shredded();
    for (const each of [keyring, await open(store)]) {
      const sealer = await each.prepare(['cus_1'], true);
      expect(() => sealer.seal('cus_1', ada)).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
      expect(sealer.open('cus_1', sealed)).toBeNull();
    }
  });

  it('is forgotten by a process that hears of it', async () => {
    const store = new MemoryDataKeys();
    const [one, two] = [await open(store), await open(store)];
    const sealed = (await one.prepare(['cus_1'], true)).seal('cus_1', ada);
    await two.prepare(['cus_1']);
    await one.shred('cus_1');
    two.forget('cus_1');
    expect((await two.prepare(['cus_1'])).open('cus_1', sealed)).toBeNull();
  });

  it('is shredded once the store says so, and looked up again if it does not', async () => {
    const store = new MemoryDataKeys();
    const keyring = await open(store);
    const sealed = (await keyring.prepare(['cus_1'], true)).seal('cus_1', ada);
    store.destroy = async () => {
      store.rows.set('cus_1', null);
      throw new Error('gone');
    };
    await expect(keyring.shred('cus_1')).rejects.toThrow('gone');
    expect((await keyring.prepare(['cus_1'])).open('cus_1', sealed)).toBeNull();
  });

  it.each(['shred', 'forget'] as const)('does not come back through an answer that was on its way (%s)', async (how) => {
    const store = new SlowDataKeys();
    const sealed = (await (await open(store)).prepare(['cus_1'], true)).seal('cus_1', ada);
    const keyring = await open(store);
    store.hold();
    store.calls = [];
    const late = keyring.prepare(['cus_1']);
    await Promise.resolve();
    expect(store.calls).toEqual(['get 1']);
    if (how === 'shred') await keyring.shred('cus_1');
    else {
      await store.destroy('cus_1');
      keyring.forget('cus_1');
    }
    store.release();
    await late;
    expect((await keyring.prepare(['cus_1'])).open('cus_1', sealed)).toBeNull();
  });
});

describe('A keyed hash', () => {
  it('is the same for the same, and another for another value, kind, environment or master key', async () => {
    const [keyring, again, staging, foreign] = await Promise.all([
      open(), open(), open(undefined, { environment: 'staging' }), open(undefined, { masterKey: randomBytes(32) }),
    ]);
    expect(keyring.keyHash('ABC')).toMatch(/^[A-Za-z0-9_-]{43}$/);
    expect(again.keyHash('ABC')).toBe(keyring.keyHash('ABC'));
    const all = [keyring.keyHash('ABC'), keyring.keyHash('ABD'), keyring.hmac('email', 'ABC'), staging.keyHash('ABC'), foreign.keyHash('ABC')];
    expect(new Set(all).size).toBe(5);
  });
});

it('still reads what any release has stored', async () => {
  const store = new MemoryDataKeys();
  store.rows.set('#probe', 'AWQ1EkseR7avFyoKF2NWhgu3NEVOQcs6eKmgGUpBl-i0mPwg2gSdyjjkukFOD_tVSBgg51RdiwL8DTooMA');
  store.rows.set('cus_1', 'AcZYqID3r6wNSF5LcdtQSRUWPF-QTc3dtezDfssM54Cm0OrvnLGV2ekrxesW38vPA3mqX4Y5QNBjPRnrBQ');
  const keyring = await open(store, { masterKey: Buffer.alloc(32, 7) });
  expect(keyring.keyHash('0123456789ABCDEFGHJKMNPQRSTV')).toBe('ONpYCJSjdsYToMXtYdbVsQSQ38gzyKFRIX7Kv2Xz6K4');
  expect((await keyring.prepare(['cus_1'])).open('cus_1', 'ASNLc9T5eYnq1RpVoKf_q24zJbVV_oSAwY1wVLHKSv5taLTOSw-zRpXOQQ')).toEqual({ name: 'Ada' });
  expect(keyring.openAnswer('once', 'AbV7VEnNro27aIVm5GP8CB3-UNCRp8Wi94_Nz5wLRKvWUTZ2RPjEwUEE6Q')).toEqual({ status: 201 });
  expect(decrypt(keyring.signingKeys, Buffer.from('kid'), 'AVYFQzD9ZhnJPxJ7Z_B7FISGl55A8WEaXqgFP-oS34nyvmR1').toString()).toBe('private');
  expect([...store.rows.keys()]).toEqual(['#probe', 'cus_1']);
});

describe('A stored answer', () => {
  it('opens for who brings the same Idempotency-Key, in the same environment, and for nobody else', async () => {
    const [keyring, restarted, staging] = await Promise.all([open(), open(), open(undefined, { environment: 'staging' })]);
    const answer = { status: 201, body: '{"secret":"lk_production_x"}' };
    const key = 'k'.repeat(2000);
    const sealed = keyring.sealAnswer(key, answer);
    expect(Buffer.from(sealed, 'base64url').toString('latin1')).not.toContain('secret');
    expect(restarted.openAnswer(key, sealed)).toEqual(answer);
    expect(() => keyring.openAnswer(`${key}k`, sealed)).toThrow();
    expect(() => keyring.openAnswer('', sealed)).toThrow();
    expect(() => staging.openAnswer(key, sealed)).toThrow();
  });
});
