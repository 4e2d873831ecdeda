/**
 * What is under way, by a small number that is given anew once it is free.
 *
 * Not a Map: one from which as much is deleted as is added moves into a new table again and again, and each old table points to the next. As soon as
 * one of them is old for V8, all that was under way at those moments survives its quick collections, until a full one.
 */
export class Slots<T extends object> {
  readonly #items: (T | undefined)[] = [];
  readonly #free: number[] = [];

  add(item: T): number {
    const slot = this.#free.pop() ?? this.#items.length;
    this.#items[slot] = item;
    return slot;
  }

  get(slot: number): T | undefined {
    return this.#items[slot];
  }

  /** Undefined for a number that stands for nothing now. */
  take(slot: number): T | undefined {
    const item = this.#items[slot];
    if (item === undefined) return undefined;
    this.#items[slot] = undefined;
    this.#free.push(slot);
    // Not as large for ever as it once was.
    if (this.#free.length === this.#items.length) this.#items.length = this.#free.length = 0;
    return item;
  }

  takeAll(): T[] {
    const { all } = this;
    this.#items.length = 0;
    this.#free.length = 0;
    return all;
  }

  get all(): T[] {
    return this.#items.filter((item) => item !== undefined);
  }
}
