import { flushCompileCache } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

// Whoever read it has left (`npm start | head`): the product goes on.
process.stdout.on('error', () => undefined);

/** Prints a line for the operator. */
export const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** Prints the reason and ends the process; its supervisor starts it again. */
export function fail(line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(1);
}

/** One Ctrl-C arrives as several signals: the terminal's own, npm's, and that of the parent process. */
const ONE_REQUEST_MS = 2_000;
/** The operator waits for the end, and other processes may wait, too: nothing that hangs may delay it. */
export const ENDS_WITHIN_MS = 15_000;
/** Requests that have waited for the start come first. */
const SETTLES_AFTER_MS = 1_000;

/**
 * Runs until SIGINT or SIGTERM, then closes and ends with 0; while it starts there is nothing to close. A failure at either end, or a close that
 * takes longer than `endsWithinMs` (a supervisor has limits of its own), is reported in one line, and the process ends with 1. A second signal means
 * that the operator does not want to wait: the process ends at once, with 1. With a channel to a parent process it also ends when the parent does,
 * and on the parent's word does what makes it pause: `collect`, to return the memory that starting took, and `flush`, to write the compile cache,
 * which Node itself does only at an orderly end.
 */
export async function runUntilStopped(name: string, start: () => Promise<{ close(): Promise<void> }>, endsWithinMs?: number): Promise<void> {
  // From how long objects of one kind have lived V8 guesses where to put the next. Requests that wait for another process live just long enough to be
  // taken for old ones; from then on each of them, and all it refers to, stays until a full collection.
  setFlagsFromString('--no-allocation-site-pretenuring');
  const cannot = (what: string) => (error: unknown) => fail(`${name} cannot ${what}: ${error instanceof Error ? error.message : String(error)}`);
  const endWithin = (ms: number) => setTimeout(() => fail(`${name} has not stopped within ${ms / 1000} s, and ends as it is`), ms);
  let running: { close(): Promise<void> } | undefined;
  let askedAt: number | undefined;
  const stop = () => {
    if (askedAt !== undefined) return performance.now() - askedAt < ONE_REQUEST_MS ? undefined : process.exit(1);
    askedAt = performance.now();
    if (!running) process.exit(1);
    if (endsWithinMs !== undefined) endWithin(endsWithinMs);
    running.close().then(() => process.exit(), cannot('stop'));
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  // The parent that started this process, and would end it, is gone, and perhaps also what an orderly end needs.
  process.on('disconnect', () => {
    stop();
    endWithin(ENDS_WITHIN_MS);
  });
  running = await start().catch(cannot('start'));
  if (!process.connected) setTimeout(collect, SETTLES_AFTER_MS).unref();
  else process.on('message', (what) => {
    (what === 'flush' ? flushCompileCache : collect)();
    process.send?.('done');
  });
}

/** V8 keeps the memory that starting took, some 60 MB, for objects that an idle process never creates. Takes 0.1 to 0.3 s, once. */
function collect(): void {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options: { readonly type: 'major'; readonly flavor: 'last-resort' }) => void;
  gc({ type: 'major', flavor: 'last-resort' });
}
