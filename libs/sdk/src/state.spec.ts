import { describe, expect, it } from '@jest/globals';
import type { LeaseClaims, LicensedTerms, LicenseFile, OfflineFile, SignedVerdict, VerdictClaims } from '@keyledger/license-file';
import fc from 'fast-check';
import { infoOf } from './info.ts';
import { judge } from './judgement.ts';
import { apply, initial, type LicenseEvent, type State } from './state.ts';
import { firstTickMs, isClockBack, nextTick, reservedFor, reserving, ticked, timeOf, type Reading } from './time.ts';

const hour = 3_600_000;
const day = 24 * hour;
const start = Date.parse('2026-07-01T12:00:00.000Z');
const iso = (ms: number) => new Date(ms).toISOString();
const at = (sinceStart: number, changes: Partial<Reading> = {}): Reading => ({ wall: start + sinceStart, mono: 5_000 + sinceStart, boot: 'one', ...changes });

const terms: LicensedTerms = {
  id: 'lic_1', productId: 'prd_1', planId: null, serialNumber: null, effectiveAt: null, expiresAt: null, expiryGraceDays: 0, overageGraceDays: 7, offlineGraceDays: 14, expiredEnforcement: 'READ_ONLY',
  trial: null, validationMode: 'online', heartbeatIntervalSeconds: 3600, deploymentMode: null, deploymentId: null, binding: 'none', seats: 'node-locked', activationLimit: 1,
  features: { sso: true }, featureFlags: {}, quotas: [],
};
const claims = { iss: 'keyledger', aud: 'prd_1', env: 'production', fingerprint: 'm', jti: 'j' } as const;
const lease = (sinceStart: number, { license = {}, ...changes }: Partial<Omit<LeaseClaims, 'license'>> & { license?: Partial<LicensedTerms> } = {}): LicenseEvent => {
  const iat = (start + sinceStart) / 1000;
  return { type: 'Leased', text: `lease ${sinceStart}`, claims: { ...claims, sub: 'act_1', iat, nbf: iat, exp: iat + (14 * day) / 1000, counter: 0, seq: 4, license: { ...terms, ...license }, ...changes } };
};
const signedVerdict: SignedVerdict = { valid: true, code: 'VALID', reasons: [], conclusive: true, enforcement: 'FULL', graceEndsAt: null, decisionId: 'd', checkedAt: iso(start) };
const no = (code: string, enforcement: SignedVerdict['enforcement'] = 'LOCKED'): Partial<SignedVerdict> => ({ valid: false, code, reasons: [code], enforcement });
const answer = (sinceStart: number, verdict: Partial<SignedVerdict> = {}, { seq = 4, license = {}, asked = at(sinceStart) }: { seq?: number; license?: Record<string, unknown> | null; asked?: Reading } = {}): LicenseEvent => {
  const iat = (start + sinceStart) / 1000;
  const told: VerdictClaims = {
    ...claims, sub: 'lic_1', iat, nbf: iat, exp: iat + day / 1000, counter: seq, nonce: 'n', instanceId: 'act_1', verdict: { ...signedVerdict, ...verdict },
    license: license && { id: 'lic_1', productId: 'prd_1', status: 'active', features: terms.features, expiresAt: null, effectiveAt: null, ...license },
  };
  return { type: 'Answered', text: `verdict ${sinceStart}`, claims: told, asked };
};
const licenseFile = (sinceStart: number, license: Partial<LicensedTerms> = {}, seq = 4): LicenseEvent => {
  const file: LicenseFile = { environment: 'production', issuedAt: iso(start + sinceStart), seq, status: 'active', customer: null, license: { ...terms, ...license } };
  return { type: 'LicenseFileInstalled', text: 'file', file };
};
const offlineFile = (sinceStart: number, verdict: Partial<SignedVerdict> = {}, seq = 4): LicenseEvent => {
  const file: OfflineFile = {
    environment: 'production', issuedAt: iso(start + sinceStart), expiresAt: iso(start + sinceStart + day), seq, activationId: null, fingerprint: null, verdict: { ...signedVerdict, ...verdict }, license: terms,
  };
  return { type: 'OfflineFileInstalled', text: 'offline', file };
};
const unreachable: LicenseEvent = { type: 'Unreachable' };

type Step = LicenseEvent | readonly [LicenseEvent, Reading];
/** Events one after another, each at its own moment or at the start. All must be taken. */
function given(...steps: readonly Step[]): State {
  return steps.reduce<State>((state, step) => {
    const [event, reading] = 'type' in step ? [step, at(0)] : step;
    const applied = apply(state, event, reading);
    if (!applied.ok) throw new Error(`${event.type} → ${applied.reason}`);
    return applied.state;
  }, initial(at(0)));
}

describe('An instance that has seen nothing signed', () => {
  it('is not activated, whatever the network does', () => {
    expect(judge(given(), at(0))).toMatchObject({ valid: false, code: 'NOT_ACTIVATED', enforcement: 'LOCKED', state: 'locked' });
    expect(judge(given(unreachable, { type: 'Seated', instanceId: 'act_1' }), at(0))).toMatchObject({ code: 'NOT_ACTIVATED' });
  });

  it('hears a "no" to an unknown key', () => {
    expect(judge(given(answer(0, no('NOT_FOUND'), { license: null, seq: 0 })), at(0))).toMatchObject({ valid: false, code: 'NOT_FOUND', enforcement: 'LOCKED' });
  });
});

describe('The grace ladder', () => {
  const active = given(lease(0));

  it('goes from active through the offline grace to locked, and back', () => {
    expect(judge(active, at(hour))).toMatchObject({ valid: true, code: 'VALID', enforcement: 'FULL', state: 'active', graceUntil: null, offlineUntil: iso(start + 14 * day) });
    const cut = given(lease(0), unreachable);
    expect(judge(cut, at(14 * day - hour))).toMatchObject({ valid: true, code: 'IN_OFFLINE_GRACE', enforcement: 'WARN', state: 'grace', graceUntil: iso(start + 14 * day), unreachable: true });
    expect(judge(cut, at(14 * day - 1))).toMatchObject({ valid: true });
    expect(judge(cut, at(14 * day))).toMatchObject({ valid: false, code: 'HEARTBEAT_OVERDUE', enforcement: 'LOCKED', state: 'locked' });
    expect(judge(given(lease(0), unreachable, [lease(15 * day), at(15 * day)]), at(15 * day))).toMatchObject({ valid: true, state: 'active' });
  });

  it('ends at expiry as the terms say', () => {
    const expiring = { expiresAt: iso(start + day), expiryGraceDays: 7 };
    const state = given(lease(0, { license: expiring }));
    expect(judge(state, at(day - 1))).toMatchObject({ code: 'VALID', daysRemaining: 1 });
    expect(judge(state, at(day))).toMatchObject({ valid: true, code: 'IN_EXPIRY_GRACE', enforcement: 'WARN', state: 'grace', graceUntil: iso(start + 8 * day), daysRemaining: 0 });
    expect(judge(state, at(8 * day))).toMatchObject({ valid: false, code: 'EXPIRED', enforcement: 'READ_ONLY', state: 'restricted' });
    expect(judge(given(lease(0, { license: { ...expiring, expiredEnforcement: 'LOCKED' } })), at(8 * day))).toMatchObject({ code: 'EXPIRED', enforcement: 'LOCKED' });
  });

  it('ends with the overage grace that a verdict names', () => {
    const over = { valid: true, code: 'QUOTA_EXCEEDED', reasons: ['QUOTA_EXCEEDED'], enforcement: 'WARN', graceEndsAt: iso(start + 7 * day) } as const;
    const told = { license: { quotas: [{ meter: 'cores', limit: 8, state: 'exceeded', graceEndsAt: iso(start + 7 * day) }] } };
    const state = given(lease(0), answer(0, over, told));
    expect(judge(state, at(day))).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', state: 'grace', graceUntil: iso(start + 7 * day) });
    // The server may be about to tell the outcome; an instance that does not hear it is restricted a day later.
    for (const ms of [7 * day, 8 * day - 1]) expect(judge(state, at(ms))).toMatchObject({ valid: true, code: 'QUOTA_EXCEEDED', enforcement: 'WARN', state: 'grace', graceUntil: iso(start + 8 * day) });
    const undecided = given(lease(0), answer(7.5 * day, { ...over, graceEndsAt: null }, told));
    expect(judge(undecided, at(8.5 * day - 1))).toMatchObject({ code: 'QUOTA_EXCEEDED', enforcement: 'WARN', state: 'grace' });
    expect(judge(undecided, at(8.5 * day))).toMatchObject({ code: 'RESTRICTED', enforcement: 'READ_ONLY' });
    expect(judge(state, at(8 * day))).toMatchObject({ valid: true, code: 'RESTRICTED', enforcement: 'READ_ONLY', state: 'restricted', reasons: ['RESTRICTED', 'QUOTA_EXCEEDED'] });
  });

  it('lasts the grace since a verdict for an online license, and as long as the lease for one with heartbeats or a floating seat', () => {
    const later = [answer(5 * day), at(5 * day)] as const;
    expect(judge(given(lease(0), later), at(18 * day))).toMatchObject({ valid: true });
    expect(judge(given(lease(0), later), at(19 * day))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    for (const license of [{ validationMode: 'heartbeat' }, { seats: 'floating' }] as const) {
      expect(judge(given(lease(0, { license }), later), at(14 * day))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    }
  });

  it('is one day with a verdict and no terms, and two heartbeats without an offline grace', () => {
    expect(judge(given(answer(0)), at(day - 1))).toMatchObject({ valid: true });
    expect(judge(given(answer(0)), at(day))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    const none = given(lease(0, { exp: start / 1000 + 1, license: { offlineGraceDays: 0 } }), answer(0));
    const told = given(lease(0), answer(0));
    for (const ends of [(sinceStart: number) => judge(none, at(sinceStart)), (sinceStart: number) => judge(told, at(sinceStart), { offlineGraceMs: 0 })]) {
      expect([ends(2 * hour - 1).code, ends(2 * hour).code]).toEqual(['VALID', 'HEARTBEAT_OVERDUE']);
    }
    // Nothing prolongs the end that a lease names.
    const short = given(lease(0, { exp: start / 1000 + 60, license: { validationMode: 'heartbeat', offlineGraceDays: 0 } }), answer(0));
    for (const offlineGraceMs of [undefined, 0]) expect(judge(short, at(60_000), offlineGraceMs === undefined ? {} : { offlineGraceMs })).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
  });
});

describe('A signed "no"', () => {
  it.each([['REVOKED', 'LOCKED', 'locked'], ['SUSPENDED', 'LOCKED', 'locked'], ['EXPIRED', 'READ_ONLY', 'restricted'], ['EXPIRED', 'LOCKED', 'locked'], ['A_CODE_OF_LATER', 'LOCKED', 'locked']] as const)('%s means %s', (code, enforcement, state) => {
    expect(judge(given(lease(0), answer(1000, no(code, enforcement), { seq: 5 })), at(1000))).toMatchObject({ valid: false, code, enforcement, state });
  });

  it('is lifted by a verdict only: not by a lease, and not by an older answer', () => {
    const revoked = given(lease(0), answer(1000, no('REVOKED'), { seq: 5 }));
    const leased = apply(revoked, lease(2000, { counter: 9 }), at(2000));
    expect(leased.ok && judge(leased.state, at(2000))).toMatchObject({ code: 'REVOKED' });
    expect(apply(revoked, answer(500, {}, { seq: 4 }), at(2000))).toEqual({ ok: false, reason: 'STALE' });
    expect(apply(revoked, offlineFile(500, {}, 5), at(2000))).toEqual({ ok: false, reason: 'STALE' });
    expect(apply(revoked, licenseFile(500, {}, 4), at(2000))).toEqual({ ok: false, reason: 'STALE' });
    const again = apply(revoked, answer(2000, {}, { seq: 6 }), at(2000));
    expect(again.ok && judge(again.state, at(2000))).toMatchObject({ valid: true, code: 'VALID' });
  });

  it('that is not conclusive changes nothing', () => {
    expect(judge(given(lease(0), answer(1000, { ...no('REVOKED'), conclusive: false })), at(1000))).toMatchObject({ valid: true });
  });

  it('gives way to a newer license file', () => {
    expect(judge(given(answer(0, no('EXPIRED', 'READ_ONLY'), { seq: 5 }), licenseFile(1000, {}, 6)), at(1000))).toMatchObject({ valid: true });
    expect(judge(given(answer(0, no('EXPIRED', 'READ_ONLY'), { seq: 5 }), licenseFile(1000, {}, 5)), at(1000))).toMatchObject({ code: 'EXPIRED' });
  });

  it('still locks after the grace, if it had left reads', () => {
    const state = given(lease(0), answer(0, no('EXPIRED', 'READ_ONLY')));
    expect(judge(state, at(14 * day - 1)).enforcement).toBe('READ_ONLY');
    expect(judge(state, at(14 * day))).toMatchObject({ code: 'EXPIRED', enforcement: 'LOCKED' });
  });
});

describe('A signed "there is no such license"', () => {
  const gone = answer(hour, no('NOT_FOUND'), { license: null, seq: 0 });
  const followed = (own: State, theirs: State) => {
    const applied = apply(own, { type: 'Followed', state: theirs }, at(hour));
    return applied.ok && judge(applied.state, at(2 * hour));
  };

  it('is not lifted by older proofs: a verdict of another process, or the installed license file', () => {
    const [told, before] = [given(lease(0), answer(0), gone), given(lease(0), answer(0))];
    for (const [own, theirs] of [[told, before], [before, told]] as const) expect(followed(own, theirs)).toMatchObject({ valid: false, code: 'NOT_FOUND', enforcement: 'LOCKED' });
    expect(judge(given(licenseFile(0), answer(0), gone, licenseFile(0)), at(2 * hour))).toMatchObject({ valid: false, code: 'NOT_FOUND' });
  });

  it('is lifted by newer proofs', () => {
    const [told, after] = [given(lease(0), answer(0), gone), given(lease(0), answer(2 * hour))];
    for (const [own, theirs] of [[told, after], [after, told]] as const) expect(followed(own, theirs)).toMatchObject({ valid: true, code: 'VALID' });
    expect(judge(given(licenseFile(0), answer(0), gone, licenseFile(2 * hour)), at(3 * hour))).toMatchObject({ valid: true });
  });
});

describe('What is signed', () => {
  it('is refused when it is older, or about another license or an older heartbeat', () => {
    const state = given(lease(0, { counter: 7 }), answer(0, {}, { seq: 9 }));
    expect(apply(state, lease(1000, { counter: 6 }), at(1000))).toEqual({ ok: false, reason: 'STALE' });
    expect(apply(state, answer(1000, {}, { seq: 8 }), at(1000))).toEqual({ ok: false, reason: 'STALE' });
    expect(apply(state, lease(1000, { license: { id: 'lic_2' } }), at(1000))).toEqual({ ok: false, reason: 'WRONG_SUBJECT' });
    expect(apply(state, answer(1000, {}, { seq: 9, license: { id: 'lic_2' } }), at(1000))).toEqual({ ok: false, reason: 'WRONG_SUBJECT' });
    expect(apply(state, lease(1000, { sub: 'act_2', counter: 0 }), at(1000))).toMatchObject({ ok: true });
  });

  it('shortens nothing when it is replayed', () => {
    const state = given([lease(day, { counter: 7 }), at(day)]);
    const applied = apply(state, lease(0, { counter: 7 }), at(day));
    expect(applied.ok && applied.state.lease).toEqual(state.lease);
  });

  it('and newest decides what is licensed', () => {
    expect(infoOf(given(lease(0), answer(0, {}, { seq: 5, license: { features: { sso: true, audit: 3 } } })))?.features).toEqual({ sso: true, audit: 3 });
    expect(infoOf(given(answer(0, {}, { seq: 5 }), lease(0, { seq: 6, license: { features: { export: true } } })))?.features).toEqual({ export: true });
  });

  it('in a license file needs no server if the license is offline', () => {
    expect(judge(given(licenseFile(0, { validationMode: 'offline' }), unreachable), at(900 * day))).toMatchObject({ valid: true, offlineUntil: null });
    expect(judge(given(licenseFile(0)), at(14 * day))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    expect(judge(given(offlineFile(0)), at(day - 1))).toMatchObject({ valid: true });
    expect(judge(given(offlineFile(0)), at(day))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
  });

  it('is forgotten with the seat, or with the license; the time is not', () => {
    const released = given(lease(0), answer(0), { type: 'Released' });
    expect(judge(released, at(0))).toMatchObject({ code: 'NOT_ACTIVATED' });
    const replaced = given([lease(10 * day), at(0)], { type: 'Replaced' });
    expect(timeOf(replaced.time, at(0))).toBe(start + 10 * day);
  });
});

describe('Time', () => {
  const cut = given(lease(0), unreachable);

  it('is not turned back by the wall clock, within a process or between two', () => {
    const aged = ticked(cut, at(10 * day));
    for (const back of [hour, day, 60 * day]) {
      expect(timeOf(aged.time, at(10 * day, { wall: start + 10 * day - back }))).toBe(start + 10 * day);
      const reading = at(0, { boot: 'two', mono: 0, wall: start + 10 * day - back });
      const restarted = apply(aged, { type: 'Restarted' }, reading);
      expect(restarted.ok && timeOf(restarted.state.time, { ...reading, mono: 4 * day })).toBe(start + 14 * day);
      expect(isClockBack(aged.time, at(10 * day, { wall: start + 10 * day - back }))).toBe(true);
    }
    expect(isClockBack(aged.time, at(10 * day))).toBe(false);
  });

  it('is corrected by a fresh answer after the clock was ahead, and counts until then', () => {
    const ahead = ticked(cut, at(hour, { wall: start + 60 * day }));
    expect(judge(ahead, at(hour))).toMatchObject({ code: 'HEARTBEAT_OVERDUE' });
    const applied = apply(ahead, answer(hour, {}, { asked: at(hour) }), at(hour));
    expect(applied.ok && judge(applied.state, at(hour))).toMatchObject({ valid: true, state: 'active', at: iso(start + hour) });
  });

  it('of an answer counts from when it was asked for, and never goes behind what was signed', () => {
    const held = apply(cut, answer(0, {}, { asked: at(0) }), at(10 * day));
    expect(held.ok && timeOf(held.state.time, at(10 * day))).toBe(start + 10 * day);
    const seen = given([lease(5 * day), at(5 * day)]);
    const older = apply(seen, answer(day, {}, { asked: at(5 * day) }), at(5 * day));
    expect(older.ok && timeOf(older.state.time, at(5 * day))).toBe(start + 5 * day);
  });

  it('that a process has not written down is counted by the next', () => {
    const kept = reserving(cut, at(0), 60_000);
    const next = (reading: Reading) => {
      const applied = apply(kept, { type: 'Restarted' }, reading);
      return applied.ok ? timeOf(applied.state.time, reading) - start : NaN;
    };
    expect(next(at(0, { boot: 'two', mono: 0 }))).toBe(60_000);
    expect(next(at(90_000, { boot: 'two', mono: 0 }))).toBe(90_000);
    expect(next(at(10_000))).toBe(10_000);
  });
});

/**
 * A machine, its clocks and its state folder, in the hands of a user who wants to work for longer than the grace, who may put clocks anywhere, end the
 * process in any way, reboot the machine, and restore any copy of the folder. `ran` is how long the software was at work since the last contact, in
 * the line of states that led to this one.
 */
describe('A machine that cannot reach the server', () => {
  /** As short as a floating seat may have it, so that every minute gained would show. */
  const grace = hour;
  const seat = lease(0, { exp: (start + grace) / 1000, license: { validationMode: 'heartbeat' } });
  type Move = { readonly kind: 'run' | 'kill' | 'dispose' | 'reboot' | 'copy' | 'restore' | 'fail' | 'clock' | 'back'; readonly by: number };
  const move = fc.record<Move>({
    kind: fc.constantFrom('run', 'run', 'run', 'kill', 'dispose', 'reboot', 'copy', 'restore', 'fail', 'clock', 'back'), by: fc.oneof(fc.integer({ min: 0, max: 120_000 }), fc.integer({ min: 0, max: 20 * 60_000 }), fc.constant(29_999), fc.constant(grace)),
  });
  interface Folder {
    readonly state: State;
    readonly ran: number;
  }

  function usableTime(moves: readonly Move[], { reboots, honest }: { readonly reboots: boolean; readonly honest: boolean }) {
    let [real, offset, boot, booted] = [0, 0, 0, -5_000];
    const reading = (): Reading => ({ wall: start + real + offset, mono: real - booted, boot: ['one'][boot] ?? String(boot) });
    let state = given(seat, answer(0));
    let ran = 0;
    let tick = firstTickMs;
    let due = tick;
    const saved = (): Folder => ({ state: reserving(state, reading(), reservedFor(tick)), ran });
    let kept = saved();
    let copy = kept;
    let [longest, latest] = [0, 0];
    const work = (ms: number) => {
      real += ms;
      ran += ms;
      state = ticked(state, reading());
      if (judge(state, reading()).enforcement === 'LOCKED') return;
      [longest, latest] = [Math.max(longest, ran), Math.max(latest, real)];
    };
    const start_ = () => {
      const applied = apply(kept.state, { type: 'Restarted' }, reading());
      if (!applied.ok) throw new Error(applied.reason);
      ({ ran } = kept);
      state = applied.state;
      due = tick = firstTickMs;
      kept = saved();
      // The work of a process since its last write is not in a folder, but it was done.
    };
    for (const { kind, by } of moves) {
      if (kind === 'run') {
        // Written down at each tick, so at most the last of it is not.
        let left = by;
        while (left >= due) {
          work(due);
          left -= due;
          due = tick = nextTick(tick);
          kept = saved();
        }
        work(left);
        due -= left;
      } else if (kind === 'kill') {
        const done = ran;
        start_();
        ran = Math.max(ran, done);
        kept = { ...kept, ran };
      } else if (kind === 'dispose') {
        kept = { state: reserving(state, reading(), 0), ran };
        start_();
      } else if (kind === 'reboot' && reboots) {
        const done = ran;
        [boot, booted] = [boot + 1, real];
        start_();
        ran = Math.max(ran, done);
        kept = { ...kept, ran };
      } else if (kind === 'copy') copy = kept;
      else if (kind === 'restore') {
        kept = copy;
        start_();
      } else if (kind === 'fail') state = given2(state, unreachable, reading());
      else if (kind === 'clock' && !honest) offset = by % 2 ? -by * 50 : by;
      else if (kind === 'back' && !honest) offset = -real;
    }
    return { longest, latest };
  }
  const given2 = (state: State, event: LicenseEvent, reading: Reading): State => {
    const applied = apply(state, event, reading);
    return applied.ok ? applied.state : state;
  };
  const moves = fc.array(move, { maxLength: 300, size: 'max' });

  it('never works for longer than the grace, whatever is done to clocks, processes, the machine and the folder', () => {
    fc.assert(fc.property(moves, (all) => usableTime(all, { reboots: true, honest: false }).longest < grace), { numRuns: 500 });
  });

  it('gains nothing from reboots before anything is written, with the clock put back to the beginning each time', () => {
    const all = Array.from({ length: 200 }, () => [{ kind: 'run', by: 29_999 }, { kind: 'back', by: 0 }, { kind: 'reboot', by: 0 }] as const).flat();
    expect(usableTime(all, { reboots: true, honest: false }).longest).toBeLessThan(grace);
  });

  it('never works beyond the end of the grace without a reboot, or while its clock is right', () => {
    fc.assert(fc.property(moves, (all) => usableTime(all, { reboots: false, honest: false }).latest < grace), { numRuns: 300 });
    fc.assert(fc.property(moves, (all) => usableTime(all, { reboots: true, honest: true }).latest < grace), { numRuns: 300 });
  });

  it('works until the end of the grace, if nothing of all that is done', () => {
    expect(usableTime([{ kind: 'run', by: 50 * 60_000 }, { kind: 'kill', by: 0 }, { kind: 'run', by: 9 * 60_000 }, { kind: 'dispose', by: 0 }], { reboots: true, honest: true }).latest).toBe(grace - 60_000);
  });
});
