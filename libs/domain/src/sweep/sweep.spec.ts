import { describe, expect, it } from '@jest/globals';
import { addSeconds } from '@keyledger/kernel';
import { scenarios } from '@keyledger/testing';
import { SWEEP_ABANDONED_SECONDS, Sweeps, type SweepsCommand } from './sweep.ts';

const now = '2026-11-21T12:00:00.000Z';
const { given, story, stateOf } = scenarios(Sweeps, now);
const start = (seconds = 0): SweepsCommand => ({ type: 'Start', trigger: 'schedule', at: addSeconds(now, seconds) });
const showLife = (number: number, seconds: number): SweepsCommand => ({ type: 'ShowLife', number, at: addSeconds(now, seconds) });
const finish = (number: number): SweepsCommand => ({ type: 'Finish', number, complete: true, durationMs: 40, examined: 3, transitions: { LicenseExpired: 2 } });
const first = story(start());
const gone = SWEEP_ABANDONED_SECONDS;

describe('The sweep of an environment', () => {
  it('is claimed by whoever starts it', () => {
    given().when(start()).thenEvents({ type: 'SweepStarted', number: 1, trigger: 'schedule', at: now });
    given(first).when(start(1)).thenNothing();
  });
  it('goes on to the next run when one is finished', () => {
    given(first).when(finish(1)).thenEvents({ type: 'SweepFinished', number: 1, durationMs: 40, examined: 3, transitions: { LicenseExpired: 2 } });
    given(story(first, finish(1))).when(start(1)).thenEvents({ type: 'SweepStarted', number: 2 });
    given(story(first, finish(1))).when(finish(1)).thenNothing();
  });
  it('is taken over from somebody who gives no sign of life, and not earlier', () => {
    given(first).when(start(gone - 0.001)).thenNothing();
    given(first).when(start(gone)).thenEvents({ type: 'SweepStarted', number: 2 });
    const alive = story(first, showLife(1, gone - 1));
    given(alive).when(start(gone)).thenNothing();
    given(alive).when(start(gone * 2 - 1)).thenEvents({ type: 'SweepStarted', number: 2 });
  });
  it('is taken over from somebody who died before the clock was set back', () => {
    given(story(first, showLife(1, 3600))).when(start(3600 - gone + 0.001)).thenNothing();
    given(story(first, showLife(1, 3600))).when(start(3600 - gone)).thenEvents({ type: 'SweepStarted', number: 2 });
  });
  it('lets somebody who was taken for dead say what he has done, but not hold it', () => {
    const takenOver = story(first, start(gone));
    given(takenOver).when(showLife(1, gone + 1)).thenNothing();
    given(takenOver).when(finish(1)).thenEvents({ type: 'SweepFinished', number: 1 }, (state) => expect(state.running?.number).toBe(2));
    const finished = story(takenOver, finish(2));
    expect(stateOf(finished)).toEqual({ number: 2, running: null });
    given(finished).when(finish(1)).thenEvents({ type: 'SweepFinished', number: 1 }, (state) => expect(state).toEqual({ number: 2, running: null }));
  });
  it('counts no life and no end of a run that never was', () => {
    given().when(showLife(1, 0)).thenNothing();
    given().when(finish(1)).thenNothing();
    given(first).when(finish(2)).thenNothing();
  });
});
