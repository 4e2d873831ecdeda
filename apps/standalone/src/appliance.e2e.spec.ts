import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import type { Directive, HeartbeatAnswer, InstanceView, LicenseEventView, Verdict } from '@keyledger/contracts';
import { stopwatch } from '@keyledger/testing';
import { offer, Product, sell, validate, type Answer, type Client, type Sold } from '@keyledger/testing/process';

let product: Product;
let root: Client;
beforeAll(async () => {
  product = await Product.start();
  ({ root } = product);
});
afterAll(() => product.stop());

const day = 86_400;

interface Activated {
  readonly activationId: string;
  readonly token: string;
  readonly deployment: { readonly state: string };
  readonly offlineGraceSeconds: number;
  readonly nextInSeconds: number;
  readonly lastSeq: number | null;
}

/** What a token says; that it is rightly signed is another spec's matter. */
const claimsOf = (token: string | null) => JSON.parse(Buffer.from(token?.split('.')[1] ?? '', 'base64url').toString()) as { exp: number; iat: number; sub: string; counter: number; fingerprint: string; verdict?: Verdict };
const payloadOf = (file: string) => JSON.parse(Buffer.from((JSON.parse(file) as { payload: string }).payload, 'base64').toString()) as { verdict: Verdict };
const headerOf = (token: string | null) => JSON.parse(Buffer.from(token?.split('.')[0] ?? '', 'base64url').toString()) as { typ: string; kid: string };
const typeOf = (token: string | null) => headerOf(token).typ;
const kidOf = (token: string | null) => headerOf(token).kid;

/** An appliance: it has its license's key and counts its heartbeats. */
class Box {
  readonly #client: Client;
  readonly #authorization: string;
  readonly path: string;
  activationId = '';
  seq = 0;

  constructor(license: Pick<Sold, 'id' | 'key'>, readonly fingerprint: string, environment = 'production') {
    this.path = `/licenses/${license.id}`;
    this.#authorization = `License ${license.key}`;
    this.#client = product.app.with({ authorization: this.#authorization, 'x-environment': environment });
  }

  async activate(): Promise<Activated> {
    const activated = await this.#client.post<Activated>(`${this.path}/activate`, { fingerprint: this.fingerprint, hostname: `host of ${this.fingerprint}`, version: '1.0.0' });
    this.activationId = activated.activationId;
    return activated;
  }

  ask(fields: Readonly<Record<string, unknown>> = {}): Promise<Answer<HeartbeatAnswer & { code?: string; lastSeq?: number }>> {
    return this.#client.ask('POST', `${this.path}/heartbeat`, { activationId: this.activationId, fingerprint: this.fingerprint, seq: ++this.seq, ...fields });
  }

  async beat(fields: Readonly<Record<string, unknown>> = {}): Promise<HeartbeatAnswer> {
    const { status, body } = await this.ask(fields);
    expect({ status, body }).toMatchObject({ status: 200 });
    return body;
  }

  acknowledge(seq: number): Promise<{ acknowledged: number }> {
    return this.#client.post(`${this.path}/stream/ack`, { seq, activationId: this.activationId });
  }

  listen(headers = {}): Promise<Stream> {
    return Stream.open(`${this.path}/stream?activationId=${this.activationId}`, { authorization: this.#authorization, ...headers });
  }
}

interface Message {
  readonly event: string;
  readonly id: string | undefined;
  readonly data: { readonly seq: number; readonly type?: string; readonly status: string; readonly enforcement: string };
  readonly at: number;
}

const streams: Stream[] = [];
afterEach(() => streams.splice(0).forEach((stream) => stream.close()));

/** Server-sent events as they arrive. */
class Stream {
  readonly messages: Message[] = [];
  readonly #arrived = new EventTarget();
  readonly #abort = new AbortController();
  ended = false;

  static async open(path: string, headers: Readonly<Record<string, string>>): Promise<Stream> {
    const stream = new Stream();
    streams.push(stream);
    const url = product.urls[streams.length % product.urls.length];
    const response = await fetch(`${url}${path}`, { headers, signal: stream.#abort.signal });
    expect({ status: response.status, type: response.headers.get('content-type') }).toEqual({ status: 200, type: 'text/event-stream' });
    void stream.#read(response.body as ReadableStream<Uint8Array>);
    await stream.next(({ event }) => event === 'state');
    return stream;
  }

  /** The first message of the kind, also one that is there already. */
  async next(isIt: (message: Message) => boolean, withinMs = 10_000): Promise<Message> {
    const signal = AbortSignal.timeout(withinMs);
    for (;;) {
      const found = this.messages.find(isIt);
      if (found) return found;
      await once(this.#arrived, 'message', { signal });
    }
  }

  close(): void {
    this.#abort.abort();
  }

  async #read(body: ReadableStream<Uint8Array>): Promise<void> {
    let text = '';
    try {
      for await (const chunk of body.pipeThrough(new TextDecoderStream() as never) as unknown as AsyncIterable<string>) {
        text += chunk;
        const parts = text.split('\n\n');
        text = parts.pop() ?? '';
        for (const part of parts) this.#take(part);
      }
    } catch {
      // Closed, by us or by the product's end.
    }
    this.ended = true;
    this.#arrived.dispatchEvent(new Event('message'));
  }

  #take(part: string): void {
    const fields = Object.fromEntries(part.split('\n').filter((line) => !line.startsWith(':')).map((line) => line.split(/: (.*)/s) as [string, string]));
    if (!fields['event']) return;
    this.messages.push({ event: fields['event'], id: fields['id'], data: JSON.parse(fields['data'] ?? '{}') as Message['data'], at: performance.now() });
    this.#arrived.dispatchEvent(new Event('message'));
  }
}

async function aLicense(licensing: object = {}): Promise<Sold> {
  const { plan } = await offer(root, { activationLimit: 1, validationMode: 'heartbeat', ...licensing });
  return sell(root, plan.id);
}
async function aBox(licensing: object = {}): Promise<{ license: Sold; box: Box; activated: Activated }> {
  const license = await aLicense(licensing);
  const box = new Box(license, `fp-${crypto.randomUUID()}`);
  return { license, box, activated: await box.activate() };
}
const act = (license: Sold, action: string, body: object = {}) => root.post<Sold>(`/licenses/${license.id}/${action}`, body);
const typesOf = async (license: Sold) => (await root.all<LicenseEventView>(`/licenses/${license.id}/events`)).map(({ type }) => type);

describe('An appliance', () => {
  it('is sold, activates, lives through its subscription, moves to new hardware and is revoked', async () => {
    const { license, box, activated } = await aBox();
    expect(activated).toEqual({
      activationId: expect.stringMatching(/^act_/), token: expect.any(String), deployment: { state: 'active' }, offlineGraceSeconds: 14 * day, nextInSeconds: 3600, lastSeq: null,
    });
    expect({ type: typeOf(activated.token), ...claimsOf(activated.token) }).toMatchObject({ type: 'kl-lease+jwt', sub: activated.activationId, fingerprint: box.fingerprint, counter: 0 });
    expect(await root.all<InstanceView>(`/licenses/${license.id}/activations`)).toMatchObject([{ id: box.activationId, name: `host of ${box.fingerprint}`, fingerprint: box.fingerprint }]);

    const good = await box.beat();
    expect(good).toEqual({ state: 'active', enforcement: 'FULL', token: activated.token, directives: [], nextInSeconds: 3600, serverTime: expect.any(String) });
    await act(license, 'suspend', { cause: 'subscription', reason: 'card declined' });
    const bad = await box.beat();
    expect(bad).toMatchObject({ state: 'suspended', enforcement: 'LOCKED', directives: [] });
    expect({ type: typeOf(bad.token), ...claimsOf(bad.token).verdict }).toMatchObject({ type: 'kl-verdict+jwt', valid: false, code: 'SUSPENDED', enforcement: 'LOCKED' });
    await act(license, 'unsuspend', { cause: 'subscription' });
    const restored = await box.beat();
    expect({ ...restored, type: typeOf(restored.token) }).toMatchObject({ state: 'active', enforcement: 'FULL', type: 'kl-lease+jwt' });
    expect(claimsOf(restored.token).exp - claimsOf(restored.token).iat).toBe(14 * day);

    const replacement = new Box(license, `fp-${crypto.randomUUID()}`);
    await act(license, 'rebind', { fingerprint: replacement.fingerprint, reason: 'the mainboard was replaced' });
    const old = await box.beat();
    expect({ ...old, type: typeOf(old.token) }).toMatchObject({ state: 'rebound', enforcement: 'LOCKED', type: 'kl-verdict+jwt' });
    expect(await replacement.activate()).toMatchObject({ activationId: box.activationId, deployment: { state: 'active' }, lastSeq: null });
    expect(await replacement.beat()).toMatchObject({ state: 'active', enforcement: 'FULL' });
    expect(await root.get<Sold>(`/licenses/${license.id}`)).toMatchObject({ activationCount: 1 });

    await act(license, 'revoke', { reason: 'charged back' });
    const over = await replacement.beat();
    expect({ ...over, type: typeOf(over.token) }).toMatchObject({ state: 'revoked', enforcement: 'LOCKED', type: 'kl-verdict+jwt' });
    expect(await replacement.beat({ seq: replacement.seq })).toEqual(over);
    const usage = [good.serverTime, new Date().toISOString()].map((at, n) => ({ id: `reading ${n}`, meter: 'cores', value: 1, at }));
    expect(await replacement.beat({ usage })).toMatchObject({ state: 'revoked', enforcement: 'LOCKED', usageRefused: ['reading 1'] });
    expect((await box.beat()).enforcement).toBe('LOCKED');
    expect(await typesOf(license)).toEqual(['LicenseIssued', 'InstanceActivated', 'LicenseSuspended', 'LicenseUnsuspended', 'InstanceRebound', 'LicenseRevoked']);
  });

  it('gets its activation again, which extends nothing and keeps the count', async () => {
    const { license, box, activated } = await aBox();
    await box.beat();
    await box.beat();
    const again = await root.ask<Activated>('POST', `/licenses/${license.id}/activate`, { fingerprint: box.fingerprint });
    expect(again).toMatchObject({ status: 200, body: { activationId: box.activationId, token: activated.token, lastSeq: 2 } });
    const other = await product.app.with({ authorization: `License ${license.key}` }).refused('POST', `/licenses/${license.id}/activate`, { fingerprint: 'another box' });
    expect(other).toMatchObject({ status: 409, code: 'FINGERPRINT_MISMATCH', limit: 1, used: 1 });
    expect(await typesOf(license)).toEqual(['LicenseIssued', 'InstanceActivated']);
  });

  it('is locked once a new key was made, and the old key is nobody\'s', async () => {
    const { license, box } = await aBox();
    const { key } = await act(license, 'regenerate-key', { reason: 'leaked' });
    expect(await box.ask()).toMatchObject({ status: 404, body: { code: 'LICENSE_NOT_FOUND' } });
    const knowing = new Box({ id: license.id, key }, box.fingerprint);
    knowing.activationId = box.activationId;
    expect(await knowing.beat()).toMatchObject({ state: 'locked', enforcement: 'LOCKED' });
    expect(await knowing.activate()).toMatchObject({ deployment: { state: 'active' } });
    expect(knowing.activationId).not.toBe(box.activationId);
  });

  it('gets another lease at once when the key of its last one is revoked', async () => {
    const { box, activated } = await aBox();
    expect((await box.beat()).token).toBe(activated.token);
    await root.post(`/signing-keys/${kidOf(activated.token)}/revoke`);
    const { token } = await box.beat();
    const { keys } = await product.app.get<{ keys: { kid: string }[] }>('/.well-known/jwks.json');
    expect(keys.map(({ kid }) => kid)).toContain(kidOf(token));
    expect((await box.beat()).token).toBe(token);
  });

  it('is valid for those who ask, and was seen when its heartbeat came', async () => {
    const { license, box } = await aBox();
    const { serverTime } = await box.beat({ version: '1.1.0' });
    expect(await validate(product.app, license.key, { instanceId: box.activationId, fingerprint: box.fingerprint })).toMatchObject({ valid: true, code: 'VALID' });
    const [instance] = await root.all<InstanceView>(`/licenses/${license.id}/activations`);
    expect(String(instance?.lastSeenAt) >= serverTime).toBe(true);
    expect(instance?.lease).toMatchObject({ seq: 1, contactAt: serverTime, endsAt: new Date(Date.parse(serverTime) + 14 * day * 1000).toISOString(), version: '1.1.0' });
  });
});

describe('A box without contact', () => {
  it('has fourteen days from its last heartbeat on, to the hour, however long it has been there; then it is overdue, and the next one brings it back', async () => {
    const staging = root.in('staging');
    const pass = (seconds: number) => staging.post('/environments/staging/clock/advance', { seconds });
    const { plan } = await offer(staging, { validationMode: 'heartbeat' });
    const license = await sell(staging, plan.id);
    const box = new Box(license, 'fp', 'staging');
    await box.activate();
    const tokens = new Set<string | null>();
    let last: HeartbeatAnswer | undefined;
    for (let n = 0; n < 40; n++) {
      await pass(n % 2 ? 1_200 : 7_200);
      last = await box.beat();
      tokens.add(last.token);
      const left = claimsOf(last.token).exp - Date.parse(last.serverTime) / 1000;
      expect(left).toBeGreaterThanOrEqual(14 * day - 3_600);
      // The signing process reads its own clock, in whole seconds.
      expect(left).toBeLessThanOrEqual(14 * day + 1);
    }
    expect(tokens.size).toBe(20);
    const code = async () => (await validate(product.app.in('staging'), license.key, { instanceId: box.activationId, fingerprint: 'fp' })).code;
    await pass(14 * day - 3_600);
    expect(await code()).toBe('VALID');
    await pass(3_600);
    expect(await code()).toBe('HEARTBEAT_OVERDUE');
    expect(claimsOf(last?.token ?? null).exp).toBeLessThanOrEqual(Date.parse(last?.serverTime ?? '') / 1000 + 14 * day);
    expect(await box.beat()).toMatchObject({ state: 'active', enforcement: 'FULL' });
    expect(await code()).toBe('VALID');
  });
});

describe('A heartbeat', () => {
  it('that is sent again gets the same answer, to the byte; one that is behind, or another one with the same number, is refused', async () => {
    const { box } = await aBox();
    const first = await box.ask({ seq: 7, nonce: 'a' });
    for (let again = 0; again < 6; again++) expect((await box.ask({ seq: 7, nonce: 'a' })).body).toEqual(first.body);
    expect(JSON.stringify((await box.ask({ seq: 7, nonce: 'a' })).body)).toBe(JSON.stringify(first.body));
    for (const fields of [{ seq: 6, nonce: 'a' }, { seq: 0 }]) expect(await box.ask(fields)).toMatchObject({ status: 409, body: { code: 'STALE_SEQUENCE', lastSeq: 7 } });
    expect(await box.ask({ seq: 7, nonce: 'of its clone' })).toMatchObject({ status: 409, body: { code: 'STALE_SEQUENCE', lastSeq: 7, conflict: true } });
    expect(await box.ask({ seq: 8 })).toMatchObject({ status: 200, body: { state: 'active' } });
  });

  it('that a hundred send at once is accepted once, wherever it arrives', async () => {
    const { box } = await aBox();
    for (const seq of [1, 2, 3]) {
      const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => box.ask({ seq, nonce: n % 2 ? 'box' : 'clone' })));
      const [accepted, refused] = [answers.filter(({ status }) => status === 200), answers.filter(({ status }) => status === 409)];
      expect([accepted.length, refused.length]).toEqual([50, 50]);
      expect(new Set(accepted.map(({ body }) => JSON.stringify(body))).size).toBe(1);
    }
  });

  it('needs the license\'s own key, its activation and its fingerprint', async () => {
    const [{ license, box }, other] = [await aBox(), await aBox()];
    const body = { activationId: box.activationId, fingerprint: box.fingerprint, seq: 1 };
    const send = (authorization: string, fields = {}) => product.app.with({ authorization }).ask<{ code?: string }>('POST', `/licenses/${license.id}/heartbeat`, { ...body, ...fields });
    expect(await send(`License ${other.license.key}`)).toMatchObject({ status: 404, body: { code: 'LICENSE_NOT_FOUND' } });
    expect(await send('License AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA')).toMatchObject({ status: 404, body: { code: 'LICENSE_NOT_FOUND' } });
    expect(await send('License AAAAAAA-AAAAAAA-AAAAAAA-AAAAAAA', { activationId: 'none' })).toMatchObject({ status: 404, body: { code: 'LICENSE_NOT_FOUND' } });
    expect(await send('')).toMatchObject({ status: 401 });
    expect(await send(`License ${license.key}`, { activationId: other.box.activationId })).toMatchObject({ status: 404, body: { code: 'INSTANCE_NOT_FOUND' } });
    expect(await send(`License ${license.key}`, { fingerprint: 'stranger' })).toMatchObject({ status: 409, body: { code: 'FINGERPRINT_MISMATCH' } });
    expect(await send(`License ${license.key.toLowerCase()}`)).toMatchObject({ status: 200 });
    expect(await product.app.with({ authorization: `License ${license.key}`, 'x-environment': 'staging' }).ask('POST', `/licenses/${license.id}/heartbeat`, body)).toMatchObject({ status: 404 });
    expect(await root.ask('POST', `/licenses/${license.id}/heartbeat`, { ...body, seq: 2 })).toMatchObject({ status: 200 });
  });
});

describe('A directive', () => {
  it('is delivered until it is acknowledged, and can lock', async () => {
    const { license, box } = await aBox();
    const path = `/licenses/${license.id}/directives`;
    const message = await root.post<Directive>(path, { kind: 'message', payload: { text: 'Maintenance on Sunday' } });
    expect(message).toEqual({ id: expect.stringMatching(/^dir_/), kind: 'message', payload: { text: 'Maintenance on Sunday' }, issuedAt: expect.any(String) });
    const lock = await root.post<Directive>(path, { kind: 'lock' });
    expect(await box.beat()).toMatchObject({ state: 'locked', enforcement: 'LOCKED', directives: [message, lock] });
    expect((await box.beat({ acks: [lock.id] })).directives).toEqual([message]);
    expect(await box.beat({ acks: [message.id] })).toMatchObject({ state: 'locked', directives: [] });

    // The vendor sees it, and whoever asks hears the same, and gets nothing to go on with.
    const said = { valid: false, code: 'INACTIVE', reasons: ['INACTIVE'], enforcement: 'LOCKED' };
    const asked = () => validate(product.app, license.key, { instanceId: box.activationId, fingerprint: box.fingerprint });
    const offline = async () => payloadOf((await root.post<{ content: string }>(`/licenses/${license.id}/offline-file`, { activationId: box.activationId })).content).verdict;
    expect(await root.get(`/licenses/${license.id}`)).toMatchObject({ locked: true });
    expect(claimsOf((await box.beat()).token).verdict).toMatchObject(said);
    expect(await asked()).toMatchObject(said);
    expect(await offline()).toMatchObject(said);
    const again = await box.activate();
    expect({ ...again.deployment, ...claimsOf(again.token).verdict }).toMatchObject({ ...said, state: 'locked' });
    expect(await product.app.post('/license/activate', { licenseKey: license.key, fingerprint: box.fingerprint })).not.toHaveProperty('token');
    expect(await root.refused('POST', `/licenses/${license.id}/license-file`)).toMatchObject({ status: 409, code: 'INVALID_TRANSITION' });

    const unlock = await root.post<Directive>(path, { kind: 'unlock' });
    expect(await root.get(`/licenses/${license.id}`)).toMatchObject({ locked: false });
    expect(await box.beat()).toMatchObject({ state: 'active', enforcement: 'FULL', directives: [unlock] });
    for (const verdict of [await asked(), await offline()]) expect(verdict).toMatchObject({ valid: true, code: 'VALID' });
    expect((await box.beat({ acks: [unlock.id] })).directives).toEqual([]);
    expect((await typesOf(license)).filter((type) => type === 'DirectiveQueued')).toHaveLength(3);
    expect(JSON.stringify(await root.get(`/licenses/${license.id}/events`))).not.toMatch('Maintenance');
    expect(await root.refused('POST', path, { kind: 'explode' })).toMatchObject({ status: 400 });
    await act(license, 'revoke');
    expect(await root.refused('POST', path, { kind: 'refresh' })).toMatchObject({ status: 409, code: 'TERMINAL_STATE' });
  });
});

describe('A connected box', () => {
  it('hears of a revocation in less than a second, and of everything before it', async () => {
    const { license, box } = await aBox();
    const stream = await box.listen();
    expect(stream.messages[0]).toMatchObject({ event: 'state', data: { status: 'active', enforcement: 'FULL' } });
    for (const [action, type, enforcement] of [['suspend', 'LicenseSuspended', 'LOCKED'], ['unsuspend', 'LicenseUnsuspended', 'FULL'], ['revoke', 'LicenseRevoked', 'LOCKED']] as const) {
      await act(license, action);
      const took = stopwatch();
      const change = await stream.next(({ data }) => data.type === type);
      expect(change).toMatchObject({ event: 'change', id: String(change.data.seq), data: { enforcement } });
      expect(took()).toBeLessThan(1000);
    }
    expect(await box.beat()).toMatchObject({ state: 'revoked', enforcement: 'LOCKED' });
  });

  it('is told again what it has not acknowledged, and nothing twice', async () => {
    const { license, box } = await aBox();
    await box.beat();
    const told = async (headers = {}) => {
      const stream = await box.listen(headers);
      await act(license, 'inactivate');
      const last = await act(license, 'reactivate');
      const { revision } = last as Sold & { revision: number };
      await stream.next(({ data }) => data.seq === revision && data.type === 'LicenseReactivated');
      stream.close();
      return { revision, seqs: stream.messages.filter(({ event }) => event === 'change').map(({ data }) => data.seq) };
    };
    expect(await told()).toEqual({ revision: 3, seqs: [2, 3] });
    expect(await told()).toEqual({ revision: 5, seqs: [2, 3, 4, 5] });
    expect(await box.acknowledge(3)).toEqual({ acknowledged: 3 });
    expect(await box.acknowledge(2)).toEqual({ acknowledged: 3 });
    expect(await told()).toEqual({ revision: 7, seqs: [4, 5, 6, 7] });
    expect(await told({ 'last-event-id': '6' })).toEqual({ revision: 9, seqs: [7, 8, 9] });
    await box.beat();
    expect(await told()).toEqual({ revision: 11, seqs: [10, 11] });
    expect(await box.acknowledge(99_999)).toEqual({ acknowledged: 11 });
  });

  it('hears the end when its key is another one, and when the license is erased', async () => {
    const { license, box } = await aBox();
    const stream = await box.listen();
    await act(license, 'regenerate-key');
    await stream.next(({ event }) => event === 'end');
    const watching = await Stream.open(`/licenses/${license.id}/stream`, { authorization: `Bearer ${product.rootKey}` });
    await root.delete(`/licenses/${license.id}`, { reason: 'asked for', force: true });
    await watching.next(({ event }) => event === 'end');
    expect(await root.refused('GET', `/licenses/${license.id}/stream`)).toMatchObject({ status: 404, code: 'LICENSE_NOT_FOUND' });
  });
});

describe('What was accepted', () => {
  it('is there after the product was killed: the same answers, and no number twice', async () => {
    const boxes = await Promise.all(Array.from({ length: 8 }, async () => (await aBox()).box));
    const last = new Map<Box, { seq: number; text: string }>();
    const beating = boxes.map(async (box) => {
      for (;;) {
        const answer = await box.ask().catch(() => undefined);
        if (answer?.status !== 200) return;
        last.set(box, { seq: box.seq, text: JSON.stringify(answer.body) });
      }
    });
    while ([...last.values()].reduce((sum, { seq }) => sum + seq, 0) < 400) await sleep(5);
    await product.kill9();
    await Promise.all(beating);
    await product.restart();
    for (const box of boxes) {
      const { seq, text } = last.get(box) as { seq: number; text: string };
      expect(await box.ask({ seq: seq - 1 })).toMatchObject({ status: 409, body: { code: 'STALE_SEQUENCE' } });
      const again = await box.ask({ seq });
      // The one after it may have been accepted as well, and its answer lost.
      if (again.status === 200) expect(JSON.stringify(again.body)).toBe(text);
      else expect(again.body).toMatchObject({ code: 'STALE_SEQUENCE', lastSeq: seq + 1 });
      expect(await box.ask({ seq: seq + 2 })).toMatchObject({ status: 200, body: { state: 'active' } });
    }
  }, 180_000);
});
