import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ApiKeyView, InstanceView, LicenseEventView, LicenseView, OrderView, SweepReport, SweepView, Verdict } from '@keyledger/contracts';
import { mode, offer, Product, sell, validate, type Listed, type Offer } from '@keyledger/testing/process';

interface Clock { readonly now: string; readonly controlled: boolean }
const clockOf = (environment: string) => `/environments/${environment}/clock`;
const MINUTE = 60_000;
const DAY = 86_400_000;
const after = (instant: string, milliseconds: number): string => new Date(Date.parse(instant) + milliseconds).toISOString();

let product: Product;
beforeAll(async () => {
  product = await Product.start({ KEYLEDGER_SWEEP_SECONDS: '1' });
}, 120_000);
afterAll(() => product.stop());

const api = () => product.root.in('staging');
const app = () => product.app.in('staging');
const now = async () => (await product.root.get<Clock>(clockOf('staging'))).now;
const put = (instant: string) => product.root.put<Clock>(clockOf('staging'), { now: instant });
const advance = async (milliseconds: number) => (await product.root.post<Clock>(`${clockOf('staging')}/advance`, { seconds: milliseconds / 1000 })).now;
/** Soon after it: clocks tick while a test runs. */
const isAt = (actual: string, expected: string) => expect([actual >= expected, actual < after(expected, 5 * MINUTE)]).toEqual([true, true]);

const year = { value: 1, unit: 'years' } as const;
const view = (id: string) => api().get<LicenseView>(`/licenses/${id}`);
const told = async (id: string) => (await api().all<LicenseEventView>(`/licenses/${id}/events`)).filter(({ type }) => /Expir|Renewed|Restricted/.test(type));
const brief = (events: readonly LicenseEventView[]) => events.map(({ type, data }) => ('days' in data ? `${String(data['days'])} days` : type));
const dueAt = ({ data }: LicenseEventView) => String(data['dueAt'] ?? data['graceEndedAt']);

describe('The clock of a test environment', () => {
  it('ticks on from where it is put, and is never put back', async () => {
    const wanted = after(await now(), 10 * DAY);
    expect(await put(wanted)).toEqual({ now: wanted, controlled: true });
    isAt(await now(), wanted);
    isAt(await advance(3_600_000), after(wanted, 3_600_000));
    expect(await product.root.refused('PUT', clockOf('staging'), { now: wanted })).toMatchObject({ status: 422, code: 'CLOCK_BACKWARDS' });
    isAt(await now(), after(wanted, 3_600_000));
  });

  it('holds for everything there, and for nothing in production', async () => {
    const there = await advance(400 * DAY);
    const { plan } = await offer(api(), { expiry: year });
    const order = await api().post<OrderView>('/orders', { planId: plan.id, customer: { name: 'Ada', email: `${crypto.randomUUID()}@example.com` } });
    isAt(order.purchasedAt, there);
    isAt(order.createdAt, there);
    const [license] = order.licenses as [LicenseView];
    isAt(license.createdAt, there);
    const { instance } = await app().post<{ instance: InstanceView }>('/license/activate', { licenseKey: license.key, fingerprint: 'fp' });
    isAt(instance.createdAt, there);
    const { checkedAt, token } = await validate(app(), String(license.key), { instanceId: instance.id, nonce: 'n' }) as Verdict & { token?: string };
    const { iat } = JSON.parse(Buffer.from(String(token).split('.')[1] ?? '', 'base64url').toString()) as { iat: number };
    isAt(checkedAt, there);
    isAt(new Date((iat + 1) * 1000).toISOString(), there);
    for (const event of await api().all<LicenseEventView>(`/licenses/${license.id}/events`)) {
      isAt(event.at, there);
      expect(Date.parse(event.recordedAt)).toBeLessThan(Date.now() + MINUTE);
    }
    const sold = await sell(product.root, (await offer(product.root, { expiry: year })).plan.id);
    expect(Date.parse(sold.purchasedAt)).toBeLessThan(Date.now() + MINUTE);
    expect(Date.parse((await validate(product.app, sold.key)).checkedAt)).toBeLessThan(Date.now() + MINUTE);
  });

  it('is the same for the next request, whoever answers it', async () => {
    const { plan } = await offer(api(), { expiry: { value: 20, unit: 'days' } });
    for (let round = 0; round < 5; round++) {
      const license = await sell(api(), plan.id);
      const { expiresAt } = license;
      await put(after(String(expiresAt), -MINUTE));
      const before = await put(String(expiresAt));
      const verdicts = await Promise.all(Array.from({ length: 12 }, () => validate(app(), license.key)));
      expect(new Set(verdicts.map(({ code, checkedAt }) => `${code} ${checkedAt >= before.now}`))).toEqual(new Set(['EXPIRED true']));
      const views = await Promise.all(Array.from({ length: 8 }, () => view(license.id)));
      expect(new Set(views.map(({ status }) => status))).toEqual(new Set(['expired']));
    }
  });

  it('is where it was after a restart', async () => {
    const there = await advance(DAY);
    await product.restart();
    const clock = await product.root.get<Clock>(clockOf('staging'));
    expect(clock.controlled).toBe(true);
    isAt(clock.now, there);
  }, 180_000);

  it('cannot be put anywhere in production', async () => {
    const own = await product.root.get<Clock>(clockOf('production'));
    expect(own.controlled).toBe(false);
    expect(await product.root.refused('PUT', clockOf('production'), { now: after(own.now, DAY) })).toMatchObject({ status: 403, code: 'PRODUCTION_CLOCK' });
    expect(await product.root.refused('POST', `${clockOf('production')}/advance`, { seconds: 1 })).toMatchObject({ status: 403, code: 'PRODUCTION_CLOCK' });
    expect(Math.abs(Date.parse((await product.root.get<Clock>(clockOf('production'))).now) - Date.now())).toBeLessThan(MINUTE);
    expect((await product.root.refused('GET', clockOf('nowhere'))).code).toBe('ENVIRONMENT_NOT_FOUND');
  });

  it('is moved by whoever manages the settings of that environment', async () => {
    const key = async (role: string, environment: string) => product.as((await product.root.post<ApiKeyView & { secret: string }>('/api-keys', { name: role, role, environment })).secret);
    const [admin, support, elsewhere] = await Promise.all([key('super_admin', 'staging'), key('support', 'staging'), key('super_admin', 'production')]);
    expect(await admin.post(`${clockOf('staging')}/advance`, { seconds: 1 })).toMatchObject({ controlled: true });
    expect(await support.refused('POST', `${clockOf('staging')}/advance`, { seconds: 1 })).toMatchObject({ code: 'PERMISSION_DENIED', permission: 'settings.manage' });
    expect((await elsewhere.refused('POST', `${clockOf('staging')}/advance`, { seconds: 1 })).code).toBe('ENVIRONMENT_FORBIDDEN');
  });
});

describe('The whole life of a license', () => {
  const sellOne = async (licensing: object): Promise<{ sold: Offer; license: LicenseView & { key: string } }> => {
    const sold = await offer(api(), { activationLimit: 2, ...licensing });
    return { sold, license: await sell(api(), sold.plan.id) };
  };

  it('takes a year, and a few seconds here', async () => {
    const { license: { id, key, expiresAt, purchasedAt }, sold: { product: { id: productId } } } = await sellOne({ expiry: year, expiryGraceDays: 7 });
    const end = String(expiresAt);
    expect(end.slice(0, 4)).toBe(String(Number(purchasedAt.slice(0, 4)) + 1));
    await app().post('/license/activate', { licenseKey: key, fingerprint: 'laptop' });

    await put(after(end, -30 * DAY - MINUTE));
    expect(await told(id)).toEqual([]);
    const milestones = [[-30, '30 days'], [-14, '14 days'], [-7, '7 days'], [7, 'LicenseExpired']] as const;
    for (const [n, [days, what]] of milestones.entries()) {
      const instant = after(end, days * DAY);
      if (days > 0) {
        await put(end);
        expect(await validate(app(), key)).toMatchObject({ valid: true, code: 'IN_EXPIRY_GRACE', enforcement: 'WARN', graceEndsAt: instant });
        expect((await view(id)).status).toBe('active');
        await app().post('/license/activate', { licenseKey: key, fingerprint: 'desktop' });
      }
      await put(instant);
      const events = await told(id);
      expect(brief(events)).toEqual(milestones.slice(0, n + 1).map(([, name]) => name));
      const last = events.at(-1) as LicenseEventView;
      expect([dueAt(last), last.actor.type]).toEqual([instant, 'system']);
      isAt(last.at, instant);
      expect(what).toBe(brief([last])[0]);
    }

    expect(await view(id)).toMatchObject({ status: 'expired', activationCount: 2 });
    expect(await validate(app(), key)).toMatchObject({ valid: false, code: 'EXPIRED', enforcement: 'READ_ONLY' });
    expect(await app().refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'server' })).toMatchObject({ status: 403, code: 'LICENSE_EXPIRED', title: 'License Expired' });
    const ids = async (status: string) => (await api().get<Listed<LicenseView>>(`/licenses?status=${status}&productId=${productId}`)).data.map((license) => license.id);
    expect([await ids('expired'), await ids('active')]).toEqual([[id], []]);

    const renewedTo = after(end, 380 * DAY);
    expect(await api().post<LicenseView>(`/licenses/${id}/renew`, { expiresAt: renewedTo, reason: 'paid' })).toMatchObject({ status: 'active', expiresAt: renewedTo });
    expect(await validate(app(), key)).toMatchObject({ valid: true, code: 'VALID' });
    expect([await ids('expired'), await ids('active')]).toEqual([[], [id]]);

    // The second year at once: the same happens, in the same order, and each says when it was due.
    const there = await advance(400 * DAY);
    const second = (await told(id)).slice(milestones.length + 1);
    expect(brief(second)).toEqual(milestones.map(([, name]) => name));
    expect(second.map(dueAt)).toEqual(milestones.map(([days]) => after(renewedTo, days * DAY)));
    for (const { at } of second) isAt(at, there);
    expect((await view(id)).status).toBe('expired');
  });

  it('as a trial ends some days after the first activation', async () => {
    const { license: { id, key } } = await sellOne({ trial: { days: 14 } });
    await advance(60 * DAY);
    expect(await validate(app(), key)).toMatchObject({ valid: true });
    await app().post('/license/activate', { licenseKey: key, fingerprint: 'box' });
    await advance(13 * DAY);
    expect(brief(await told(id))).toEqual(['ExpiryChanged', '7 days']);
    await advance(DAY);
    expect(brief(await told(id)).at(-1)).toBe('LicenseExpired');
    expect((await validate(app(), key)).code).toBe('EXPIRED');
  });
});

describe('A silent instance', () => {
  const sellOne = async (licensing: object) => sell(api(), (await offer(api(), { validationMode: 'heartbeat', ...licensing })).plan.id);
  const types = async (id: string) => (await api().all<LicenseEventView>(`/licenses/${id}/events`)).map(({ type }) => type).slice(1);
  const endOf = (token: string) => new Date((JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as { exp: number }).exp * 1000).toISOString();
  const box = (key: string) => app().with({ authorization: `License ${key}` });

  it('gives its floating seat back after three intervals, whether or not it was ever heard of', async () => {
    const { id, key } = await sellOne({ activationLimit: 2, seats: 'floating', heartbeatIntervalSeconds: 600 });
    const activate = (fingerprint: string) => app().post<{ instance: InstanceView; token: string }>('/license/activate', { licenseKey: key, fingerprint });
    const beat = (activationId: string, fingerprint: string, seq: number) => box(key).post<{ state: string }>(`/licenses/${id}/heartbeat`, { activationId, fingerprint, seq });
    const { instance: silent } = await activate('silent');
    const { instance: alive } = await activate('alive');
    expect((await app().refused('POST', '/license/activate', { licenseKey: key, fingerprint: 'third' })).code).toBe('ACTIVATION_LIMIT_EXCEEDED');
    for (let seq = 0; seq < 3; seq++) {
      await advance(9 * MINUTE);
      expect(await beat(alive.id, 'alive', seq)).toMatchObject({ state: 'active' });
    }
    expect(await types(id)).toEqual(['InstanceActivated', 'InstanceActivated']);
    await advance(4 * MINUTE);
    const last = (await api().all<LicenseEventView>(`/licenses/${id}/events`)).at(-1);
    expect(last).toMatchObject({ type: 'InstanceDeactivated', data: { activationId: silent.id, by: 'lapse', dueAt: after(silent.createdAt, 30 * MINUTE) } });
    const { instance: third, token } = await activate('third');
    // To activate once more is no heartbeat: it is the lease that there is, to its end.
    await advance(5 * MINUTE);
    const again = await activate('third');
    expect(again.instance.id).toBe(third.id);
    isAt(after(endOf(token), MINUTE), endOf(again.token));
    expect(await beat(silent.id, 'silent', 0)).toMatchObject({ state: 'locked' });

    await advance(26 * MINUTE);
    expect(await view(id)).toMatchObject({ activationCount: 0, status: 'active' });
    expect((await types(id)).filter((type) => type === 'InstanceDeactivated')).toHaveLength(3);
    expect((await validate(app(), key, { instanceId: third.id })).code).toBe('INSTANCE_NOT_FOUND');
  });

  it('gives its floating seat back also where nobody owes heartbeats; there, to ask is to be heard of', async () => {
    const { id, key } = await sellOne({ validationMode: 'online', seats: 'floating', heartbeatIntervalSeconds: 600 });
    const activate = (fingerprint: string) => app().post<{ instance: InstanceView; heartbeatIntervalSeconds: number; token: string }>('/license/activate', { licenseKey: key, fingerprint });
    const [crashed, alive, restarted] = [await activate('crashed'), await activate('alive'), await activate('restarted')];
    expect(crashed.heartbeatIntervalSeconds).toBe(600);
    const ask = ({ instance }: typeof alive) => validate(app(), key, { instanceId: instance.id, fingerprint: String(instance.fingerprint) });
    for (let n = 0; n < 4; n++) {
      await advance(9 * MINUTE);
      expect(await ask(alive)).toMatchObject({ code: 'VALID' });
      const { instance, token } = await activate('restarted');
      expect(instance.id).toBe(restarted.instance.id);
      isAt(after(await now(), 30 * MINUTE), endOf(token));
    }
    expect((await ask(crashed)).code).toBe('INSTANCE_NOT_FOUND');
    expect(await view(id)).toMatchObject({ activationCount: 2 });
    await advance(29 * MINUTE);
    expect(await ask(alive)).toMatchObject({ code: 'VALID' });
    await advance(31 * MINUTE);
    expect(await view(id)).toMatchObject({ activationCount: 0 });
  });

  it('with a seat of its own keeps it, and is said to be lost each time that its grace is over', async () => {
    // Due so seldom that none is overdue before the end.
    const { id, key } = await sellOne({ activationLimit: 1, offlineGraceDays: 14, heartbeatIntervalSeconds: 7 * 86_400 });
    const { activationId } = await box(key).post<{ activationId: string }>(`/licenses/${id}/activate`, { fingerprint: 'box' });
    const beat = (seq: number) => box(key).post(`/licenses/${id}/heartbeat`, { activationId, fingerprint: 'box', seq });
    for (let week = 0; week < 3; week++) {
      await advance(7 * DAY);
      await beat(week);
    }
    expect(await types(id)).toEqual(['InstanceActivated']);
    const heard = await now();
    await advance(15 * DAY);
    const lost = (await api().all<LicenseEventView>(`/licenses/${id}/events`)).at(-1) as LicenseEventView;
    expect(lost).toMatchObject({ type: 'HeartbeatLost', data: { activationId } });
    expect(String(lost.data['dueAt']).slice(0, 13)).toBe(after(heard, 14 * DAY).slice(0, 13));
    expect((await validate(app(), key, { instanceId: activationId, fingerprint: 'box' })).code).toBe('HEARTBEAT_OVERDUE');
    await advance(30 * DAY);
    expect(await types(id)).toEqual(['InstanceActivated', 'HeartbeatLost']);
    await beat(3);
    expect((await validate(app(), key, { instanceId: activationId, fingerprint: 'box' })).code).toBe('VALID');
    await advance(20 * DAY);
    expect(await types(id)).toEqual(['InstanceActivated', 'HeartbeatLost', 'HeartbeatRecovered', 'HeartbeatLost']);
    expect((await view(id)).activationCount).toBe(1);
  });

  it('that is moved to another box is waited for anew', async () => {
    const { id, key } = await sellOne({ activationLimit: 1, offlineGraceDays: 1, heartbeatIntervalSeconds: 600 });
    const { activationId } = await box(key).post<{ activationId: string }>(`/licenses/${id}/activate`, { fingerprint: 'box' });
    await advance(2 * DAY);
    await api().post(`/licenses/${id}/rebind`, { activationId, fingerprint: 'new', reason: 'broken' });
    const before = ['InstanceActivated', 'HeartbeatMissed', 'HeartbeatLost', 'HeartbeatRecovered', 'InstanceRebound'];
    expect(await types(id)).toEqual(before);
    await advance(21 * MINUTE);
    expect(await types(id)).toEqual([...before, 'HeartbeatMissed']);
    await advance(DAY);
    expect(await types(id)).toEqual([...before, 'HeartbeatMissed', 'HeartbeatLost']);
  });

  it('is late long before its grace is over, and good all the while', async () => {
    const { id, key } = await sellOne({ activationLimit: 1, offlineGraceDays: 14, heartbeatIntervalSeconds: 600 });
    const { activationId } = await box(key).post<{ activationId: string }>(`/licenses/${id}/activate`, { fingerprint: 'box' });
    const instance = async () => (await api().all<InstanceView>(`/licenses/${id}/activations`))[0];
    await advance(19 * MINUTE);
    expect([await types(id), (await instance())?.late]).toEqual([['InstanceActivated'], false]);
    await advance(2 * MINUTE);
    expect([await types(id), (await instance())?.late]).toEqual([['InstanceActivated', 'HeartbeatMissed'], true]);
    expect((await validate(app(), key, { instanceId: activationId, fingerprint: 'box' })).code).toBe('VALID');
    await advance(3 * DAY);
    await box(key).post(`/licenses/${id}/heartbeat`, { activationId, fingerprint: 'box', seq: 0 });
    expect([await types(id), (await instance())?.late]).toEqual([['InstanceActivated', 'HeartbeatMissed', 'HeartbeatRecovered'], false]);
    await advance(15 * DAY);
    expect(await types(id)).toEqual(['InstanceActivated', 'HeartbeatMissed', 'HeartbeatRecovered', 'HeartbeatMissed', 'HeartbeatLost']);
  });
});

describe('A sweep', () => {
  const sweep = (body: object = {}) => api().post<SweepReport>('/licenses/health/sweep', body);

  it('says what it has done, and has nothing left to do', async () => {
    // Sold with a date in the past: expired, and nobody has said so yet.
    const { plan } = await offer(api(), { expiry: { value: 1, unit: 'days' } });
    const { licenses } = await api().post<OrderView>('/orders', { planId: plan.id, quantity: 5, purchasedAt: '2020-01-01T00:00:00Z', customer: { name: 'Ada', email: `${crypto.randomUUID()}@example.com` } });
    const dry = await sweep({ dryRun: true });
    expect(dry).toMatchObject({ number: null, dryRun: true });
    const wet = await sweep();
    expect(wet).toMatchObject({ dryRun: false, number: expect.any(Number) });
    for (const { id } of licenses) expect(brief(await told(id))).toEqual(['LicenseExpired']);
    expect(await sweep()).toMatchObject({ examined: 0, transitions: {} });
    expect(await sweep({ dryRun: true })).toMatchObject({ examined: 0, transitions: {} });
    expect((await told(licenses[0]?.id as string)).length).toBe(1);
  });

  it('is listed with what it took, newest first', async () => {
    const { plan } = await offer(api(), { expiry: { value: 1, unit: 'days' } });
    await sell(api(), plan.id);
    await advance(2 * DAY);
    const { number } = await sweep();
    const { data: [last], page } = await api().get<Listed<SweepView>>('/sweeps?limit=1');
    expect(last).toMatchObject({ number, trigger: 'request', state: 'finished', examined: 0, transitions: {} });
    expect([last?.durationMs, page.total]).toEqual([expect.any(Number), number]);
    const all = await api().all<SweepView>('/sweeps');
    expect(all.map((run) => run.number)).toEqual(Array.from({ length: Number(number) }, (_, n) => Number(number) - n));
    expect(all.every(({ state }) => state === 'finished')).toBe(true);
    expect(all.some(({ trigger, transitions }) => trigger === 'clock' && Number(transitions['LicenseExpired']) > 0)).toBe(true);
  });

  it('of two at once does everything once', async () => {
    const { plan } = await offer(api(), { expiry: { value: 1, unit: 'days' } });
    const { licenses } = await api().post<OrderView>('/orders', { planId: plan.id, quantity: 50, purchasedAt: '2020-01-01T00:00:00Z', customer: { name: 'Ada', email: `${crypto.randomUUID()}@example.com` } });
    await Promise.all([sweep(), sweep(), advance(1000), sweep(), advance(1000)]);
    for (const { id } of licenses) expect(brief(await told(id))).toEqual(['LicenseExpired']);
  });

  (mode === 'distributed' ? it : it.skip)('is done to its end although who was at it is killed', async () => {
    const { plan } = await offer(api(), { expiry: { value: 1, unit: 'days' } });
    const orders = await Promise.all(Array.from({ length: 10 }, () => api().post<OrderView>('/orders', { planId: plan.id, quantity: 100, customer: { name: 'Ada', email: `${crypto.randomUUID()}@example.com` } })));
    let isOver = false;
    // The client does not wait as long as it takes until somebody else takes over.
    const advanced = advance(2 * DAY).catch(() => undefined).finally(() => { isOver = true; });
    const isRunning = async () => (await api().get<Listed<SweepView>>('/sweeps?limit=1')).data[0]?.state === 'running';
    while (!isOver && !(await isRunning())) await new Promise(setImmediate);
    for (const pid of product.pidsOf('sweeper')) process.kill(pid, 'SIGKILL');
    await advanced;
    for (let state = ''; state !== 'finished';) ({ body: { state } } = await api().ask<SweepReport>('POST', '/licenses/health/sweep'));
    const licenses = orders.flatMap((order) => order.licenses);
    for (const { id } of licenses.filter((_, n) => n % 20 === 0)) expect(brief(await told(id))).toEqual(['LicenseExpired']);
    expect((await sweep()).transitions).toEqual({});
  }, 180_000);

  it('by itself makes explicit what has happened in production', async () => {
    const { plan } = await offer(product.root, { expiry: { value: 1, unit: 'days' } });
    const license = await sell(product.root, plan.id, { purchasedAt: '2020-01-01T00:00:00Z' });
    const events = () => product.root.all<LicenseEventView>(`/licenses/${license.id}/events`);
    const deadline = Date.now() + 40_000;
    while (!(await events()).some(({ type }) => type === 'LicenseExpired')) {
      if (Date.now() > deadline) throw new Error('Nobody has said within 40 s that the license is expired');
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  });
});
