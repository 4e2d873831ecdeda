/**
 * Calls `look` until `isSo` accepts its result, and returns that; an error in `look` counts as not yet. For changes without an event to await.
 * Rejects after `withinMs` with the last result or error.
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
