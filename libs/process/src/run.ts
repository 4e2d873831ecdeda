/** Says a line to whoever started the process. */
export const say = (line: string): void => void process.stdout.write(`${line}\n`);

/** Runs until SIGINT or SIGTERM, then closes and ends with 0; while it starts there is nothing to close. What goes wrong at either end is said in one line, and the process ends with 1. */
export async function runUntilStopped(name: string, start: () => Promise<{ close(): Promise<void> }>): Promise<void> {
  const fail = (what: string) => (error: unknown) => {
    process.stderr.write(`${name} cannot ${what}: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  };
  let running: { close(): Promise<void> } | undefined;
  const stop = () => {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    if (!running) process.exit(1);
    running.close().then(() => process.exit(), fail('stop'));
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  running = await start().catch(fail('start'));
}
