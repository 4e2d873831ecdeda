import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from '@jest/globals';
import type { HeartbeatAnswer, InstanceView, UsageRecord, UsageRecorded } from '@keyledger/contracts';
import type { Shift } from './history.contract.ts';
import { offer, sell, type Answer, type Client, type Product, type Sold } from './process.ts';
import { randomFrom, type Random } from './random.ts';

const METER = 'units';
const PAUSE_MS = 100;
const ALTOGETHER_MS = 45_000;

interface Beat {
  readonly activationId: string;
  readonly fingerprint: string;
  readonly seq: number;
  readonly nonce: string;
  readonly usage: readonly UsageRecord[];
}
interface Accepted {
  readonly beat: Beat;
  readonly answer: HeartbeatAnswer;
}
/** A request not answered yet, to be repeated until it is. */
interface Owed {
  ask(until: () => boolean): Promise<boolean>;
}

/** An appliance: it counts its heartbeats and its usage, and repeats, unchanged, requests not answered. */
class Box {
  readonly #client: Client;
  readonly #app: Client;
  readonly #root: Client;
  #activationId = '';
  #seq = 0;
  #records = 0;
  /** Of all records ever sent. */
  #used = 0;
  #accepted: Accepted | undefined;
  #counted: readonly UsageRecord[] = [];
  #leaseEndsAt = '';
  #owed: Owed | undefined;

  constructor(product: Product, readonly license: Sold, readonly fingerprint: string, readonly random: Random) {
    this.#app = product.app;
    this.#root = product.root;
    this.#client = product.app.with({ authorization: `License ${license.key}` });
  }

  async activate(): Promise<void> {
    ({ activationId: this.#activationId } = await this.#client.post<{ activationId: string }>(`/licenses/${this.license.id}/activate`, { fingerprint: this.fingerprint }));
  }

  async work({ until = () => false, onAnswer }: Shift): Promise<void> {
    while (!until()) {
      this.#owed ??= this.#next();
      if (!(await this.#owed.ask(until))) return;
      this.#owed = undefined;
      onAnswer?.();
      await sleep(PAUSE_MS);
    }
  }

  /** Every answered heartbeat and record counts once; and no lease has become shorter. */
  async verify(): Promise<void> {
    const deadline = performance.now() + ALTOGETHER_MS;
    if (this.#owed && !(await this.#owed.ask(() => performance.now() > deadline))) throw new Error(`${this.license.id} is never answered`);
    this.#owed = undefined;
    const [instance] = await this.#root.all<InstanceView>(`/licenses/${this.license.id}/activations`);
    const { seq, endsAt = '' } = instance?.lease ?? {};
    expect(seq).toBe(this.#seq === 0 ? null : this.#seq);
    expect(endsAt >= this.#leaseEndsAt).toBe(true);
    this.#leaseEndsAt = endsAt;
    const { data } = await this.#root.get<{ data: { sum: number }[] }>(`/licenses/${this.license.id}/usage?meter=${METER}`);
    expect(data.reduce((sum, bucket) => sum + bucket.sum, 0)).toBe(this.#used);
    await this.#isRepeated();
    await this.#isCountedOnce();
  }

  #next(): Owed {
    const records = Array.from({ length: 1 + this.random(3) }, () => this.#read());
    return this.random(3) === 0 ? this.#report(records) : this.#beat(records);
  }

  #read(): UsageRecord {
    const value = 1 + this.random(9);
    this.#used += value;
    return { id: `record ${++this.#records}`, meter: METER, value, at: new Date().toISOString() };
  }

  #beat(usage: readonly UsageRecord[]): Owed {
    const beat = { activationId: this.#activationId, fingerprint: this.fingerprint, seq: ++this.#seq, nonce: crypto.randomUUID(), usage };
    return {
      ask: async (until) => {
        const answer = await untilCertain(() => this.#send<HeartbeatAnswer>(beat), until);
        if (!answer) return false;
        expect(answer).toMatchObject({ status: 200, body: { state: 'active', enforcement: 'FULL' } });
        expect(answer.body.usageRefused).toBeUndefined();
        this.#accepted = { beat, answer: answer.body };
        if (this.random(8) === 0) await this.#isRepeated();
        return true;
      },
    };
  }

  /** Repeated, a heartbeat gets the same answer; a changed or earlier one is stale. */
  async #isRepeated(): Promise<void> {
    if (!this.#accepted) return;
    const { beat, answer } = this.#accepted;
    const stale = { status: 409, body: { code: 'STALE_SEQUENCE', lastSeq: beat.seq } };
    for (const [again, expected] of [[beat, { status: 200, body: answer }], [{ ...beat, nonce: 'of its clone' }, stale], [{ ...beat, seq: beat.seq - 1 }, stale]] as const) {
      const told = await certain(() => this.#send<HeartbeatAnswer>(again));
      if (told) expect({ status: told.status, body: told.body }).toMatchObject(expected);
    }
  }

  #report(records: readonly UsageRecord[]): Owed {
    let tries = 0;
    return {
      ask: async (until) => {
        const answer = await untilCertain(() => {
          tries++;
          return this.#app.ask<UsageRecorded>('POST', '/license/usage', { licenseKey: this.license.key, instanceId: this.#activationId, records });
        }, until);
        if (!answer) return false;
        const { accepted, duplicates } = answer.body;
        expect({ ...answer.body, status: answer.status }).toMatchObject({ status: 200, accepted: tries > 1 && accepted === 0 ? 0 : records.length });
        expect(accepted + duplicates).toBe(records.length);
        this.#counted = records;
        if (this.random(8) === 0) await this.#isCountedOnce();
        return true;
      },
    };
  }

  async #isCountedOnce(): Promise<void> {
    if (this.#counted.length === 0) return;
    const told = await certain(() => this.#app.ask<UsageRecorded>('POST', '/license/usage', { licenseKey: this.license.key, instanceId: this.#activationId, records: this.#counted }));
    if (told) expect(told).toMatchObject({ status: 200, body: { accepted: 0, duplicates: this.#counted.length } });
  }

  #send<T>(beat: Beat): Promise<Answer<T>> {
    return this.#client.ask<T>('POST', `/licenses/${this.license.id}/heartbeat`, beat);
  }
}

/** Undefined without an answer, or on 503. */
async function certain<T>(asking: () => Promise<Answer<T>>): Promise<Answer<T> | undefined> {
  const answer = await asking().catch(() => undefined);
  return answer?.status === 503 ? undefined : answer;
}

async function untilCertain<T>(asking: () => Promise<Answer<T>>, until: () => boolean): Promise<Answer<T> | undefined> {
  for (;;) {
    const answer = await certain(asking);
    if (answer || until()) return answer;
    await sleep(PAUSE_MS);
  }
}

/** Appliances at work while processes are killed, each on its own license. */
export class Boxes {
  readonly #boxes: readonly Box[];

  static async gather(product: Product, { seed, size }: { seed: number; size: number }): Promise<Boxes> {
    const { plan } = await offer(product.root, { activationLimit: 1, validationMode: 'heartbeat' });
    return new Boxes(await Promise.all(Array.from({ length: size }, async (_, n) => {
      const box = new Box(product, await sell(product.root, plan.id), `box ${crypto.randomUUID()}`, randomFrom(seed + n + 1));
      await box.activate();
      return box;
    })));
  }

  private constructor(boxes: readonly Box[]) {
    this.#boxes = boxes;
  }

  async work(shift: Shift): Promise<void> {
    await Promise.all(this.#boxes.map((box) => box.work(shift)));
  }

  async verify(): Promise<void> {
    await Promise.all(this.#boxes.map((box) => box.verify()));
  }
}
