/** At 2,000 changes a second, those of the last five seconds. */
const keptAtLeast = 10_000;

/** What has changed of late, by position in a log. */
export class RecentChanges<T> {
  /** Changes up to here are no longer known. */
  #from: number;
  readonly #kept: number;
  #changes: { readonly what: T; readonly position: number }[] = [];

  constructor(from: number, kept = keptAtLeast) {
    this.#from = from;
    this.#kept = kept;
  }

  /** In the order of the log. */
  add(what: T, position: number): void {
    if (this.#changes.push({ what, position }) < 2 * this.#kept) return;
    this.#from = this.#changes[this.#kept - 1]?.position ?? this.#from;
    this.#changes = this.#changes.slice(this.#kept);
  }

  /** What has changed after a position. Undefined if that is too long ago to be known. */
  since(position: number): ReadonlySet<T> | undefined {
    if (position < this.#from) return undefined;
    const changed = new Set<T>();
    for (let n = this.#changes.length - 1; n >= 0; n--) {
      const change = this.#changes[n];
      if (!change || change.position <= position) break;
      changed.add(change.what);
    }
    return changed;
  }
}
