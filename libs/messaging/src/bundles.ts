import type { Envelope } from './transport.ts';

/** An envelope in transit; an answer has the number of its request. */
export interface Part extends Envelope {
  readonly id: number;
}

/** Limits that spread a rush over the processes of a service and keep a bundle within what any server accepts. */
const PARTS_AT_MOST = 16;
const CHARACTERS_AT_MOST = 256 * 1024;

/**
 * Envelopes sent to one address in one turn of the event loop travel together, sixteen at most: under load a NATS message costs several times what
 * it carries. An envelope that is too long to share a bundle travels alone.
 */
export class Bundles<P extends Part> {
  #waiting = new Map<string, P[]>();
  readonly #send: (address: string, bundle: readonly P[]) => void;
  #scheduled: NodeJS.Immediate | undefined;

  constructor(send: (address: string, bundle: readonly P[]) => void) {
    this.#send = send;
  }

  add(address: string, part: P): void {
    const parts = this.#waiting.get(address);
    if (!parts) this.#waiting.set(address, [part]);
    // A full bundle does not wait for the end of the turn: its receiver can begin while this process carries on.
    else if (parts.push(part) === PARTS_AT_MOST) {
      this.#waiting.delete(address);
      return this.#flush(address, parts);
    }
    this.#scheduled ??= setImmediate(() => this.flush());
  }

  flush(): void {
    clearImmediate(this.#scheduled);
    this.#scheduled = undefined;
    const waiting = this.#waiting;
    // A new one each turn: see Slots for what a map that lasts would leave behind.
    this.#waiting = new Map();
    for (const [address, parts] of waiting) this.#flush(address, parts);
  }

  #flush(address: string, parts: P[]): void {
    while (parts.length > 0) this.#send(address, parts.splice(0, fitting(parts)));
  }
}

/** How many of the first envelopes go together: at least one. */
function fitting(parts: readonly Part[]): number {
  let characters = 0;
  let count = 0;
  for (const { body } of parts) {
    characters += body.length;
    if (count === PARTS_AT_MOST || (count > 0 && characters > CHARACTERS_AT_MOST)) break;
    count++;
  }
  return count;
}

/** A line of JSON, `[[id, length of the body, head], …]`, and then the bodies. Lengths are in UTF-16 units, as JavaScript counts. */
export const packed = (parts: readonly Part[]): string => `${JSON.stringify(parts.map(({ id, head, body }) => [id, body.length, head]))}\n${parts.map(({ body }) => body).join('')}`;

/** Undefined for input that is not one of our bundles. */
export function unpacked(text: string): readonly Part[] | undefined {
  let at = text.indexOf('\n') + 1;
  try {
    const heads = JSON.parse(text.slice(0, at)) as [number, number, object][];
    if (heads.length < 1 || heads.length > PARTS_AT_MOST) return undefined;
    const parts = heads.map(([id, length, head]) => ({ id, head, body: text.slice(at, (at += length)) }));
    return at === text.length ? parts : undefined;
  } catch {
    return undefined;
  }
}
