import { describe, expect, it } from '@jest/globals';
import {
  activate, ada, assign, at, deactivate, desktop, direct, edit, erase, exceedQuota, grace, inactivate, issue, laptop, loseHeartbeat, machine, missHeartbeat, reactivate, rebind,
  recoverHeartbeat, regenerateKey, renew, restoreQuota, revoke, scenarios, suspectAbuse, suspend, sweep, unsuspend,
} from '@keyledger/testing';
import type { ErrorCode } from '@keyledger/kernel';
import type { LicenseEventType } from './events.ts';
import { License, type LicenseCommand } from './license.ts';
import { allowedActions, issued, statusOf } from './state.ts';
import { licenseActions, licenseStatuses, transitions, type LicenseStatus, type Next, type Step } from './transitions.ts';

const start = '2026-11-21T12:00:00.000Z';
/** Twenty days before the expiry, long after the overage grace. */
const now = '2027-11-01T12:00:00.000Z';
const afterExpiry = '2027-12-01T00:00:00.000Z';
const { story, given, stateOf } = scenarios(License, start);

const quotas = [{ meter: 'cores', limit: 8 }, { meter: 'users', limit: 8 }];
const available = story(issue({ terms: { activationLimit: 5, expiry: { value: 1, unit: 'years' }, quotas } }), exceedQuota(9, 8, 'users'));
const assigned = story(available, assign(ada));
const active = story(assigned, activate(laptop), activate(desktop), loseHeartbeat(desktop));
const situations = {
  none: [story(), now], available: [available, now], assigned: [assigned, now], active: [active, now],
  inactive: [story(active, inactivate()), now], suspended: [story(active, suspend()), now], expired: [active, afterExpiry], revoked: [story(active, revoke()), now],
  erased: [story(assigned, erase()), now],
} as const;
type Situation = keyof typeof situations;

type Row = { command: LicenseCommand; happens: LicenseEventType | ((situation: Situation) => readonly LicenseEventType[]); action?: Step };
const fallenDue = ['LicenseRestricted', 'ExpiryReminderDue'] as const;
const commands: Record<LicenseCommand['type'], Row> = {
  Issue: { command: issue(), happens: 'LicenseIssued' },
  Assign: { command: assign(grace), happens: 'LicenseAssigned', action: 'assign' },
  Edit: { command: edit({ activationLimit: 9 }), happens: 'ActivationLimitChanged', action: 'edit' },
  Activate: { command: activate(machine(3)), happens: 'InstanceActivated', action: 'activate' },
  Deactivate: { command: deactivate(laptop), happens: 'InstanceDeactivated' },
  Rebind: { command: rebind('fp-new', laptop), happens: 'InstanceRebound' },
  QueueDirective: { command: direct('refresh'), happens: 'DirectiveQueued' },
  Suspend: { command: suspend(), happens: 'LicenseSuspended', action: 'suspend' },
  Unsuspend: { command: unsuspend(), happens: 'LicenseUnsuspended', action: 'unsuspend' },
  Inactivate: { command: inactivate(), happens: 'LicenseInactivated', action: 'inactivate' },
  Reactivate: { command: reactivate(), happens: 'LicenseReactivated', action: 'reactivate' },
  Renew: { command: renew('2030-01-01T00:00:00Z'), happens: 'LicenseRenewed', action: 'renew' },
  RegenerateKey: { command: regenerateKey(), happens: 'KeyRegenerated', action: 'regenerateKey' },
  Revoke: { command: revoke(), happens: 'LicenseRevoked', action: 'revoke' },
  Erase: { command: erase({ force: true, mayEraseActivated: true }), happens: 'LicenseErased', action: 'erase' },
  Sweep: { command: sweep(), happens: (situation) => (situation === 'expired' ? [...fallenDue, 'ExpiryReminderDue', 'ExpiryReminderDue', 'LicenseExpired'] : fallenDue) },
  MissHeartbeat: { command: missHeartbeat(laptop), happens: 'HeartbeatMissed' },
  LoseHeartbeat: { command: loseHeartbeat(laptop), happens: 'HeartbeatLost' },
  RecoverHeartbeat: { command: recoverHeartbeat(desktop), happens: 'HeartbeatRecovered' },
  ExceedQuota: { command: exceedQuota(9, 8, 'cores'), happens: 'QuotaExceeded' },
  RestoreQuota: { command: restoreQuota(7, 'users'), happens: 'QuotaRestored' },
  SuspectAbuse: { command: suspectAbuse({ action: 'alert' }), happens: 'AbuseSuspected' },
};

const refusals: Record<string, ErrorCode> = {
  '404': 'LICENSE_NOT_FOUND', instance: 'INSTANCE_NOT_FOUND', invalid: 'INVALID_TRANSITION', terminal: 'TERMINAL_STATE',
  nobody: 'LICENSE_NOT_ASSIGNED', inactive: 'LICENSE_INACTIVE', suspended: 'LICENSE_SUSPENDED', expired: 'LICENSE_EXPIRED', revoked: 'LICENSE_REVOKED',
};

/** yes: it happens; so: it is already so, nothing happens; anything else: the refusal. */
const table = `
                  none  available  assigned  active  inactive  suspended  expired  revoked   erased
Issue             yes   so         so        so      so        so         so       so        404
Assign            404   yes        yes       yes     yes       yes        invalid  terminal  404
Edit              404   yes        yes       yes     yes       yes        yes      terminal  404
Activate          404   nobody     yes       yes     inactive  suspended  expired  revoked   404
Deactivate        404   instance   instance  yes     yes       yes        yes      so        404
Rebind            404   instance   instance  yes     yes       yes        yes      terminal  404
QueueDirective    404   yes        yes       yes     yes       yes        yes      terminal  404
Suspend           404   invalid    yes       yes     yes       so         invalid  terminal  404
Unsuspend         404   so         so        so      so        yes        so       terminal  404
Inactivate        404   invalid    yes       yes     so        yes        invalid  terminal  404
Reactivate        404   so         so        so      yes       so         so       terminal  404
Renew             404   yes        yes       yes     yes       yes        yes      terminal  404
RegenerateKey     404   yes        yes       yes     yes       yes        yes      terminal  404
Revoke            404   yes        yes       yes     yes       yes        yes      so        404
Erase             404   yes        yes       yes     yes       yes        yes      yes       404
Sweep             404   yes        yes       yes     yes       yes        yes      so        404
MissHeartbeat     404   instance   instance  yes     yes       yes        yes      so        404
LoseHeartbeat     404   instance   instance  yes     yes       yes        yes      so        404
RecoverHeartbeat  404   instance   instance  yes     yes       yes        yes      so        404
ExceedQuota       404   yes        yes       yes     yes       yes        yes      so        404
RestoreQuota      404   yes        yes       yes     yes       yes        yes      so        404
SuspectAbuse      404   yes        yes       yes     yes       yes        yes      so        404
`;
const [header = '', ...lines] = table.trim().split('\n');
const columns = header.trim().split(/\s+/) as Situation[];
const cells = lines.flatMap((line) => {
  const [name = '', ...outcomes] = line.trim().split(/\s+/);
  return outcomes.map((outcome, i) => ({ name: name as LicenseCommand['type'], situation: columns[i] as Situation, outcome }));
});

describe('The table of every state and every command', () => {
  it('has a line for every command and a column for every state', () => {
    expect(lines.map((line) => line.split(/\s+/)[0])).toEqual(Object.keys(commands));
    expect(columns).toEqual(Object.keys(situations));
    expect(cells).toHaveLength(Object.keys(commands).length * columns.length);
    expect(columns).toEqual(expect.arrayContaining([...licenseStatuses]));
    for (const status of licenseStatuses) expect(statusOf(issued(stateOf(situations[status][0])), situations[status][1])).toBe(status);
  });

  it.each(cells)('$name when $situation: $outcome', ({ name, situation, outcome }) => {
    const [history, instant] = situations[situation];
    const { command, happens, action } = commands[name];
    const when = given(history, instant).when(command);
    if (outcome === 'yes') when.thenEvents(...(typeof happens === 'string' ? [happens] : happens(situation)).map((type) => ({ type })));
    else if (outcome === 'so') when.thenNothing();
    else when.thenRefused(refusals[outcome] as ErrorCode, outcome === 'invalid' || outcome === 'terminal' ? { from: situation, requested: action ?? (name === 'Rebind' ? 'rebind' : 'directive') } : {});
  });
});

describe('The state machine', () => {
  /** From the table above alone: which steps happen, which are refused. */
  const listed = cells.flatMap(({ name, situation, outcome }) => {
    const { action } = commands[name];
    return action && situation in transitions ? [{ name, action, status: situation as LicenseStatus, outcome }] : [];
  });
  const steps = (status: LicenseStatus): Partial<Record<Step, Next>> => transitions[status];

  it.each(listed)('$status, $name ($outcome), is what the rules do', ({ name, action, status, outcome }) => {
    if (outcome === 'so') return;
    expect(action in steps(status)).toBe(outcome === 'yes');
    if (outcome !== 'yes') return;
    const [history, instant] = situations[status];
    const after = stateOf(story(history, at(instant, commands[name].command)));
    const before: Partial<Record<LicenseStatus, LicenseStatus>> = { inactive: 'active', suspended: 'active', expired: 'active' };
    const wanted = steps(status)[action];
    const led = after.existence === 'issued' ? statusOf(after, instant) : after.existence;
    expect(led).toBe(wanted === 'same' ? status : wanted === 'before' ? before[status] : wanted);
  });

  it('lets time end everything that is not over', () => {
    for (const status of ['available', 'assigned', 'active', 'inactive', 'suspended'] as const) {
      expect(statusOf(issued(stateOf(situations[status][0])), afterExpiry)).toBe(transitions[status].expire);
    }
  });

  it('answers in the same words as it offers', () => {
    for (const status of licenseStatuses) {
      const [history, instant] = situations[status];
      const offered = allowedActions(issued(stateOf(history)), instant);
      expect(licenseActions.filter((action) => offered.includes(action))).toEqual(offered);
      for (const { name } of cells.filter(({ situation, outcome }) => situation === status && outcome === 'invalid')) {
        given(history, instant).when(commands[name].command).thenRefused('INVALID_TRANSITION', { allowed: offered });
        expect(offered).not.toContain(commands[name].action);
      }
    }
  });
});
