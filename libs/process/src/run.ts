import { flushCompileCache } from 'node:module';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Says a line to whoever started the process. */
export const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** Says why, and ends the process; whoever looks after it starts it again. */
export function fail(line: string): never {
  process.stderr.write(`${line}\n`);
  process.exit(1);
}

/** One Ctrl-C comes as several signals: the terminal's own, npm's, and that of whoever started this process. */
const ONE_REQUEST_MS = 2_000;
/** Somebody waits for the end, and others may have to wait for him: nothing that hangs may hold it up. */
export const ENDS_WITHIN_MS = 15_000;
/** Whoever has waited for the start is served first. */
const SETTLES_AFTER_MS = 1_000;

/**
 * Runs until SIGINT or SIGTERM, then closes and ends with 0; while it starts there is nothing to close. What goes wrong at either end, or does not
 * close within `endsWithinMs` (who ends others has limits of his own), is said in one line, and the process ends with 1. Who asks again later does
 * not want to wait: it ends at once, with 1. Where a parent process keeps a channel to it, it ends with that parent, too, and does when that says so
 * what it stands still for: `collect`, to give back the room that starting took, and `flush`, to write down what was compiled, which Node itself
 * does only when it ends in order.
 */
export async function runUntilStopped(name: string, start: () => Promise<{ close(): Promise<void> }>, endsWithinMs?: number): Promise<void> {
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
  // Who has started this process, and would end it, is no more, nor perhaps what is needed to end in order.
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

/** V8 keeps the room that starting took, some 60 MB, for objects that are never made where nobody asks for anything. Takes 0.1 to 0.3 s, once. */
function collect(): void {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as (options: { readonly type: 'major'; readonly flavor: 'last-resort' }) => void;
  gc({ type: 'major', flavor: 'last-resort' });
}
