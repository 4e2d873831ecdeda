import { rmSync } from 'node:fs';

/** What the work leaves at a path is removed when it is over, and when it is broken off: main.ts ends the process then. */
export async function withoutLeftovers<T>(path: string, work: () => Promise<T>): Promise<T> {
  const remove = () => rmSync(path, { recursive: true, force: true });
  process.once('exit', remove);
  try {
    return await work();
  } finally {
    process.off('exit', remove);
    remove();
  }
}
