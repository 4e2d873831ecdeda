/**
 * Looks again and again until it is so, and answers what it saw then; what goes wrong in looking is not so yet. For what nobody tells of: an event is
 * better awaited. Rejects after `withinMs` with what was seen, or went wrong, last.
 */
export async function until<T>(look: () => T | Promise<T>, isSo: (seen: T) => unknown = Boolean, withinMs = 40_000): Promise<NonNullable<T>> {
  for (const deadline = performance.now() + withinMs; ;) {
    const late = () => performance.now() > deadline;
    try {
      const seen = await look();
      if (isSo(seen)) return seen as NonNullable<T>;
      if (late()) throw new Error(`It never was so: ${JSON.stringify(seen)?.slice(0, 2_000)}`);
    } catch (error) {
      if (late()) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
