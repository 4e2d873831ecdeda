/** The license's own reckoning of time. Pure functions: clocks are read elsewhere. */

/** One look at the clocks, in milliseconds. `mono` does not go back, and can be compared within one `boot` only. */
export interface Reading {
  readonly wall: number;
  readonly mono: number;
  readonly boot: string;
}

/**
 * The time, when no server can be asked. It was `at` when the clocks showed `mark`, and is later now by the advance of the clock that has advanced
 * most; never earlier than `peak`. So a wall clock that is put back changes nothing, one that is put forward counts until the server tells the time,
 * and one that was always wrong does no harm.
 */
export interface Time {
  readonly at: number;
  readonly mark: Reading;
  /** The latest time reached since a fresh answer told the time. */
  readonly peak: number;
  /** The latest time ever read from a signature. An answer that tells an earlier time is not believed. */
  readonly trusted: number;
  /** In a stored state: the process that wrote it may have run until then without writing again. */
  readonly reserved: number;
}

export const startOfTime = (mark: Reading, after: number): Time => ({ at: Math.max(mark.wall, after), mark, peak: after, trusted: 0, reserved: 0 });

export function timeOf({ at, mark, peak }: Time, { wall, mono, boot }: Reading): number {
  return Math.max(peak, at + Math.max(0, wall - mark.wall, boot === mark.boot ? mono - mark.mono : 0));
}

/** Some time has passed. */
export const ticked = <S extends { readonly time: Time }>(state: S, reading: Reading): S => ({ ...state, time: { ...state.time, peak: timeOf(state.time, reading) } });

/** As it is stored: if the process ends without another write, its successor counts `aheadMs` as gone, unless its clock outlives processes. */
export function reserving<S extends { readonly time: Time }>(state: S, reading: Reading, aheadMs: number): S {
  const peak = timeOf(state.time, reading);
  return { ...state, time: { ...state.time, peak, reserved: aheadMs > 0 ? peak + aheadMs : 0 } };
}

/**
 * A process writes its state after each tick, and reserves twice as long. Ticks grow with its age: a process that ends early costs its successor
 * about the time that it lasted, and never less, however often processes are killed.
 */
export const firstTickMs = 100;
export const nextTick = (ms: number): number => Math.min(2 * ms, 30_000);
export const reservedFor = (tickMs: number): number => 2 * tickMs;

export function restarted(time: Time, reading: Reading): Time {
  const now = timeOf(time, reading);
  const at = reading.boot === time.mark.boot ? now : Math.max(now, time.reserved);
  return { ...time, at, mark: reading, peak: at, reserved: 0 };
}

/** A signature of that time has been seen: it is not earlier. */
export function atLeast(time: Time, signedAt: number, reading: Reading): Time {
  const trusted = Math.max(time.trusted, signedAt);
  return trusted > timeOf(time, reading) ? { ...time, trusted, at: trusted, mark: reading, peak: trusted } : { ...time, trusted };
}

/** By an answer that cannot have been signed before it was asked for. */
export function exactly(time: Time, signedAt: number, asked: Reading): Time {
  const at = Math.max(time.trusted, signedAt);
  return { ...time, trusted: at, at, mark: asked, peak: at };
}

/** A larger step back is no adjustment of the clock. */
export const adjustmentMs = 5 * 60_000;

/** Whether the wall clock is behind the time that it must show by now. */
export const isClockBack = ({ mark }: Time, { wall, mono, boot }: Reading): boolean =>
  wall < mark.wall + (boot === mark.boot ? Math.max(0, mono - mark.mono) : 0) - adjustmentMs;
