import { describe, expect, it } from '@jest/globals';
import { addDays, addSeconds, type WebhookEndpointId } from '@keyledger/kernel';
import { at, scenarios } from '@keyledger/testing';
import fc from 'fast-check';
import { isGivenUp, MAX_ATTEMPTS, outcomeOf, pauseAfter } from './attempts.ts';
import { enabled, existing, OLD_SECRET_SECONDS, signingSecrets, WebhookEndpoint, webhookEndpointView, type WebhookEndpointCommand, type WebhookEndpointState } from './endpoint.ts';
import { wants, webhookFilters, webhookTypes } from './types.ts';

const now = '2026-11-21T12:00:00.000Z';
const endpointId: WebhookEndpointId = 'whk_01938000-0000-7000-8000-000000000001';
const { given, story, stateOf } = scenarios(WebhookEndpoint, now);

const url = 'https://example.com/hook';
const create: WebhookEndpointCommand = { type: 'Create', endpointId, url, events: ['license.*'], secret: 'whsec_1' };
const rotate = (secret: string): WebhookEndpointCommand => ({ type: 'RotateSecret', secret });
const enable: WebhookEndpointCommand = { type: 'Update', enabled: true };
const disable: WebhookEndpointCommand = { type: 'Update', enabled: false };
const gone: WebhookEndpointCommand = { type: 'Disable', cause: 'gone' };
const remove: WebhookEndpointCommand = { type: 'Delete' };

const made = story(create);
const stories = { made, disabled: story(made, gone), deleted: story(made, remove) };
const there = (history: typeof made): WebhookEndpointState => existing(stateOf(history));

describe('A webhook endpoint', () => {
  it('is created once, enabled', () => {
    given().when(create).thenEvents({ type: 'WebhookEndpointCreated', endpointId, url, events: ['license.*'], description: null, secret: 'whsec_1' });
    given(made).when(create).thenNothing();
    expect(webhookEndpointView(there(made), now)).toEqual({ id: endpointId, url, events: ['license.*'], description: null, enabled: true, disabledBy: null, oldSecretValidUntil: null, createdAt: now });
  });

  it('changes what is said, and nothing else', () => {
    given(made).when({ type: 'Update', url: `${url}/2`, events: ['*'] }).thenEvents({ type: 'WebhookEndpointChanged', url: `${url}/2`, events: ['*'] });
    given(made).when({ type: 'Update', url, events: ['license.*'], enabled: true }).thenNothing();
    given(made).when({ type: 'Update', description: 'CRM', enabled: false }).thenEvents({ type: 'WebhookEndpointChanged', description: 'CRM' }, { type: 'WebhookEndpointDisabled', cause: 'manual' });
  });

  it('is disabled by hand or by its answers, with the first cause, until it is enabled', () => {
    given(made).when(disable).thenEvents({ type: 'WebhookEndpointDisabled', cause: 'manual' });
    given(made).when(gone).thenEvents({ type: 'WebhookEndpointDisabled', cause: 'gone' });
    given(stories.disabled).when({ type: 'Disable', cause: 'failing' }).thenNothing();
    given(stories.disabled).when(disable).thenNothing();
    given(stories.disabled).when(enable).thenEvents({ type: 'WebhookEndpointEnabled' });
    given(stories.deleted).when(gone).thenNothing();
    expect(webhookEndpointView(there(stories.disabled), now)).toMatchObject({ enabled: false, disabledBy: 'gone' });
    expect(() => enabled(there(stories.disabled))).toThrow(expect.objectContaining({ code: 'WEBHOOK_ENDPOINT_DISABLED', members: { disabledBy: 'gone' } }));
    expect(enabled(there(made))).toEqual(there(made));
  });

  it('that is deleted, or never was, is not found', () => {
    for (const history of [undefined, stories.deleted]) for (const command of [enable, rotate('whsec_2'), remove]) given(history).when(command).thenRefused('WEBHOOK_ENDPOINT_NOT_FOUND');
  });

  it('has its secrets sealed, and its address, in which there may be a password', () => {
    const { WebhookEndpointCreated, WebhookEndpointChanged, WebhookSecretRotated } = WebhookEndpoint.shapes;
    expect([WebhookEndpointCreated, WebhookEndpointChanged, WebhookSecretRotated].map(({ sealed }) => sealed)).toEqual([['url', 'secret'], ['url'], ['secret']]);
  });

  it('signs with both secrets for a day after a rotation, then with the new one', () => {
    given(made).when(rotate('whsec_2')).thenEvents({ type: 'WebhookSecretRotated', secret: 'whsec_2' });
    const rotated = story(made, rotate('whsec_2'));
    given(rotated).when(rotate('whsec_2')).thenNothing();
    const end = addSeconds(now, OLD_SECRET_SECONDS);
    expect(signingSecrets(there(rotated), addSeconds(end, -0.001))).toEqual(['whsec_2', 'whsec_1']);
    expect(signingSecrets(there(rotated), end)).toEqual(['whsec_2']);
    expect([webhookEndpointView(there(rotated), now).oldSecretValidUntil, webhookEndpointView(there(rotated), end).oldSecretValidUntil]).toEqual([end, null]);
    // A second rotation keeps nobody's secret longer than a day after its own.
    const twice = there(story(rotated, at(addSeconds(now, 3600), rotate('whsec_3'))));
    expect(signingSecrets(twice, addSeconds(now, 3601))).toEqual(['whsec_3', 'whsec_2', 'whsec_1']);
    expect(signingSecrets(twice, end)).toEqual(['whsec_3', 'whsec_2']);
    const often = there(story(made, ...Array.from({ length: 20 }, (_, n) => rotate(`whsec_${n + 2}`))));
    expect(signingSecrets(often, now)).toEqual(['whsec_21', 'whsec_20', 'whsec_19', 'whsec_18', 'whsec_17']);
  });
});

describe('A filter', () => {
  it('is a type, a family, or everything', () => {
    expect(webhookFilters).toEqual(expect.arrayContaining(['*', 'license.*', 'signing-key.*', 'job.finished']));
    for (const type of webhookTypes) {
      expect([wants(['*'], type), wants([type], type), wants([`${type.split('.')[0]}.*` as '*'], type), wants([], type)]).toEqual([true, true, true, false]);
      expect(webhookTypes.filter((other) => wants([type], other))).toEqual([type]);
    }
    expect(wants(['license.*'], 'quota.exceeded')).toBe(false);
  });
});

describe('The tries of a delivery', () => {
  const span = (random: () => number) => Array.from({ length: MAX_ATTEMPTS - 1 }, (_, n) => pauseAfter(n + 1, random()) as number);
  const hours = (pauses: readonly number[]) => pauses.reduce((sum, pause) => sum + pause, 0) / 3_600_000;

  it('are ten within some 75 hours, ever further apart', () => {
    expect([MAX_ATTEMPTS, Math.floor(hours(span(() => 0)))]).toEqual([10, 75]);
    expect(span(() => 0)).toEqual([5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400].map((seconds) => seconds * 1_000));
    fc.assert(fc.property(fc.array(fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), { minLength: 9, maxLength: 9 }), (randoms) => {
      const pauses = span(() => randoms.shift() ?? 0);
      expect(pauses).toEqual(pauses.toSorted((a, b) => a - b));
      expect(hours(pauses)).toBeGreaterThanOrEqual(75);
      expect(hours(pauses)).toBeLessThanOrEqual(91);
    }));
    expect([pauseAfter(10, 0), pauseAfter(0, 0)]).toEqual([undefined, undefined]);
  });

  it('end with a 2xx or a 410, or go on until there are no more', () => {
    fc.assert(fc.property(fc.option(fc.integer({ min: 100, max: 599 })), fc.integer({ min: 1, max: MAX_ATTEMPTS }), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), (status, attempts, random) => {
      const { is } = outcomeOf({ status }, attempts, random);
      const expected = status !== null && Math.floor(status / 100) === 2 ? 'delivered' : status === 410 ? 'gone' : attempts < MAX_ATTEMPTS ? 'retry' : 'failed';
      expect(is).toBe(expected);
    }));
    expect([199, 200, 299, 300, 409, 410, 411].map((status) => outcomeOf({ status }, 1, 0).is)).toEqual(['retry', 'delivered', 'delivered', 'retry', 'retry', 'gone', 'retry']);
    expect(outcomeOf({ status: 301 }, 1, 0)).toEqual({ is: 'retry', afterMs: 5000 });
  });

  it('give the endpoint up when it has taken nothing for three days', () => {
    expect([isGivenUp(now, addDays(now, 3)), isGivenUp(now, addSeconds(addDays(now, 3), -0.001))]).toEqual([true, false]);
    // A delivery that was tried to the end with nothing taken in between always is such a case.
    expect(hours(span(() => 0))).toBeGreaterThan(3 * 24);
  });
});
