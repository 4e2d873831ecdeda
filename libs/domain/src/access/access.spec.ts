import { describe, expect, it } from '@jest/globals';
import { permissions, roles, type ErrorCode } from '@keyledger/kernel';
import { at, idOf, scenarios } from '@keyledger/testing';
import { ApiKey, apiKeyView, mayGrant, permissionsOf, type ApiKeyCommand } from './apiKey.ts';
import { clockView, Environment, environmentView, timeIn, type EnvironmentCommand, type EnvironmentState } from './environment.ts';

const now = '2026-11-21T12:00:00.000Z';
const later = '2026-11-22T12:00:00.000Z';
const refused = (code: ErrorCode, members = {}) => expect.objectContaining({ code, members: expect.objectContaining(members) });

describe('An API key', () => {
  const { given, story, stateOf } = scenarios(ApiKey, now);
  type Create = ApiKeyCommand & { type: 'Create' };
  const create = (fields: Partial<Create> = {}): Create => ({ type: 'Create', apiKeyId: idOf('key'), name: 'CI', role: 'support', environment: 'staging', secretHash: 's1', ...fields });
  const listed = (fields: Partial<Create>) => create({ role: undefined, ...fields });
  const rotate = (secretHash: string): ApiKeyCommand => ({ type: 'Rotate', secretHash });
  const remove: ApiKeyCommand = { type: 'Delete' };
  const key = story(create());

  it('is created once', () => {
    given().when(create()).thenEvents({ type: 'ApiKeyCreated', role: 'support', permissions: [], environment: 'staging', secretHash: 's1', expiresAt: null, root: false });
    given(key).when(create()).thenNothing();
  });

  it('has either a role or permissions', () => {
    given().when(listed({ permissions: ['license.read', 'license.read'] })).thenEvents({ type: 'ApiKeyCreated', role: null, permissions: ['license.read'] });
    given().when(listed({ permissions: [] })).thenEvents({ type: 'ApiKeyCreated', role: null, permissions: [] });
    for (const command of [listed({}), create({ permissions: ['license.read'] })]) {
      given().when(command).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/role', detail: 'either role or permissions must be given' }] });
    }
  });

  it('does not expire before it begins', () => {
    given().when(create({ expiresAt: now })).thenRefused('EXPIRY_IN_PAST', { expiresAt: now });
    given().when(create({ expiresAt: 'soon' })).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/expiresAt' }] });
    given().when(create({ expiresAt: '2026-11-22T13:00:00+01:00' })).thenEvents({ type: 'ApiKeyCreated', expiresAt: later });
  });

  it('changes its secret, and the old one stops at once', () => {
    given(key).when(rotate('s2')).thenEvents({ type: 'ApiKeyRotated', secretHash: 's2' });
    const rotated = story(key, at(later, rotate('s2')));
    given(rotated).when(rotate('s2')).thenNothing();
    expect(stateOf(rotated)).toMatchObject({ secretHash: 's2', rotatedAt: later });
  });

  it('is deleted once, and for good', () => {
    given(key).when(remove).thenEvents({ type: 'ApiKeyDeleted' });
    given(story(key, remove)).when(remove).thenNothing();
    given(story(key, remove)).when(rotate('s2')).thenRefused('API_KEY_NOT_FOUND');
    given(story(key, remove)).when(create()).thenNothing();
  });

  it('is unknown before it is created', () => {
    given().when(rotate('s2')).thenRefused('API_KEY_NOT_FOUND');
    given().when(remove).thenRefused('API_KEY_NOT_FOUND');
  });

  it('may do what its role may, or what it was given', () => {
    expect(permissionsOf(stateOf(key), now)).toEqual(roles.support);
    expect(permissionsOf(stateOf(story(create({ role: 'super_admin', root: true }))), now)).toEqual(permissions);
    expect(permissionsOf(stateOf(story(listed({ permissions: ['audit.read'] }))), now)).toEqual(['audit.read']);
  });

  it('may do nothing before it is created, from its expiry on, and after its deletion', () => {
    const until = stateOf(story(create({ expiresAt: later })));
    expect(permissionsOf(null, now)).toEqual([]);
    expect(permissionsOf(until, '2026-11-22T11:59:59.999Z')).toEqual(roles.support);
    expect(permissionsOf(until, later)).toEqual([]);
    expect(permissionsOf(stateOf(story(key, remove)), now)).toEqual([]);
  });

  it('can grant what it has, and nothing else', () => {
    expect(() => mayGrant(roles.license_manager, { role: 'support' })).not.toThrow();
    expect(() => mayGrant(roles.support, { permissions: [] })).not.toThrow();
    expect(() => mayGrant(roles.support, { role: 'license_manager' })).toThrow(refused('PERMISSION_DENIED', { permission: 'catalog.manage' }));
    expect(() => mayGrant(['access.manage'], { permissions: ['access.manage', 'license.erase'] })).toThrow(refused('PERMISSION_DENIED', { permission: 'license.erase' }));
  });

  it('is shown without its secret', () => {
    const state = stateOf(story(key, at(later, rotate('s2'))));
    expect(state && apiKeyView(state)).toEqual({
      id: idOf('key'), name: 'CI', role: 'support', permissions: roles.support, environment: 'staging', expiresAt: null, createdAt: now, rotatedAt: later,
    });
    expect(JSON.stringify(state && apiKeyView(state))).not.toMatch(/s1|s2/);
  });
});

describe('The clock of an environment', () => {
  const { given, story, stateOf } = scenarios(Environment, now);
  const set = (instant: string): EnvironmentCommand => ({ type: 'SetClock', now: instant });
  const advance = (seconds: number): EnvironmentCommand => ({ type: 'AdvanceClock', seconds });
  const staging = story({ type: 'Create', name: 'staging' });
  const soon = '2026-11-21T12:00:10.000Z';
  const inTwoYears = '2028-11-21T12:00:00.000Z';
  const state = (history: typeof staging) => stateOf(history) as EnvironmentState;

  it('shows real time until it is put somewhere', () => expect(clockView(state(staging), soon)).toEqual({ now: soon, controlled: false }));
  it('ticks on from where it was put', () => {
    given(staging).when(set('2028-11-21T13:00:00+01:00')).thenEvents({ type: 'ClockSet', now: inTwoYears, aheadMs: Date.parse(inTwoYears) - Date.parse(now) });
    given(staging).when(set(now)).thenEvents({ type: 'ClockSet', now, aheadMs: 0 });
    expect(clockView(state(story(staging, set(inTwoYears))), soon)).toEqual({ now: '2028-11-21T12:00:10.000Z', controlled: true });
  });
  it('moves on by seconds from the time there', () => {
    given(staging).when(advance(10)).thenEvents({ type: 'ClockSet', now: soon, aheadMs: 10_000 });
    expect(timeIn(state(story(staging, set(inTwoYears), at(soon, advance(86_400)))), soon)).toBe('2028-11-22T12:00:10.000Z');
    given(staging).when(advance(0)).thenNothing();
  });
  it('is not put back, not even behind real time', () => {
    given(staging).when(set('2026-11-21T11:59:59.999Z')).thenRefused('CLOCK_BACKWARDS', { now });
    given(story(staging, set(inTwoYears)), soon).when(set(now)).thenRefused('CLOCK_BACKWARDS', { now: '2028-11-21T12:00:10.000Z' });
  });
  it('is put to the same instant once', () => given(story(staging, set(inTwoYears)), soon).when(set(inTwoYears)).thenNothing());
  it('is not put where instants are no longer told apart', () => {
    const wrong = (field: string) => ({ errors: [{ pointer: `/${field}` }] });
    given(staging).when(set('9000-01-01T00:00:00Z')).thenEvents({ type: 'ClockSet' });
    for (const instant of ['9000-01-01T00:00:00.001Z', 'yesterday']) given(staging).when(set(instant)).thenRefused('VALIDATION_FAILED', wrong('now'));
    for (const seconds of [300_000_000_000, 1e13, 1e300]) given(staging).when(advance(seconds)).thenRefused('VALIDATION_FAILED', wrong('seconds'));
  });
  it('is real time in production, for everybody', () => {
    for (const name of ['production', 'control']) {
      for (const command of [set(inTwoYears), advance(1), advance(0)]) given(story({ type: 'Create', name })).when(command).thenRefused('PRODUCTION_CLOCK');
    }
  });
  it('needs an environment', () => given().when(set(inTwoYears)).thenRefused('ENVIRONMENT_NOT_FOUND'));
});

describe('An environment', () => {
  const { given, story, stateOf } = scenarios(Environment, now);
  const create = (name: string): EnvironmentCommand => ({ type: 'Create', name });

  it('is created once', () => {
    given().when(create('staging')).thenEvents({ type: 'EnvironmentCreated', name: 'staging' });
    given(story(create('staging'))).when(create('staging')).thenNothing();
    const state = stateOf(story(create('staging')));
    expect(state && environmentView(state)).toEqual({ name: 'staging', createdAt: now });
  });

  it.each(['', '../production', 'a/b', 'A', '1a', 'a b', 'a\n', 'a'.repeat(33), 'ä', '-a', 'a;drop'])('is not called %j', (name) =>
    given().when(create(name)).thenRefused('VALIDATION_FAILED', { errors: [{ pointer: '/name', detail: expect.stringMatching(/^must match/) }] }));
  it.each(['production', 'staging', 'pre-prod', 'eu1', 'a'.repeat(32)])('may be called %s', (name) => given().when(create(name)).thenEvents({ type: 'EnvironmentCreated', name }));
});
