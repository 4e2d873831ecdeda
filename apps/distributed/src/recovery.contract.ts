import { setTimeout as sleep } from 'node:timers/promises';
import type { Verdict } from '@keyledger/contracts';
import { offer, patience, sell, type Product, type Sold } from '@keyledger/testing/process';
import { services } from './services.ts';

const readyWithinMs = 10_000 * patience;

/** Whether the product is as it was in its good days, and how soon. */
export class Recovery {
  readonly #product: Product;
  readonly #control: Sold;
  readonly #expected: ReadonlyMap<string, number>;
  readonly #others: readonly string[];

  /** `others`: where processes answer that are not its own, but take part. */
  static async of(product: Product, others: readonly string[] = []): Promise<Recovery> {
    return new Recovery(product, await sell(product.root, (await offer(product.root, { activationLimit: 10_000 })).plan.id), others);
  }

  private constructor(product: Product, control: Sold, others: readonly string[]) {
    this.#product = product;
    this.#control = control;
    this.#others = others;
    this.#expected = this.processes();
  }

  processes(): ReadonlyMap<string, number> {
    return new Map(services.map(({ name }) => [name, this.#product.pidsOf(name).length]));
  }

  /** Why it is not ready, undefined when it is: every process says that it is ready, and a round trip succeeds through each gateway. */
  async lacking(): Promise<string | undefined> {
    for (const { name } of services) {
      const doors = this.#product.doorsOf(name);
      if (doors.length !== this.#expected.get(name)) return `${name}: ${doors.length} of ${this.#expected.get(name)}`;
    }
    for (const door of [...services.flatMap(({ name }) => this.#product.doorsOf(name)), ...this.#others]) {
      const status = await fetch(`${door}/health/ready`, { signal: AbortSignal.timeout(1_000) }).then((answer) => answer.status, String);
      if (status !== 200) return `${door}: ${status}`;
    }
    for (const gateway of this.#product.urls.keys()) {
      const app = this.#product.app.through(gateway);
      const { status } = await app.ask('POST', '/license/activate', { licenseKey: this.#control.key, fingerprint: crypto.randomUUID() }).catch(() => ({ status: 0 }));
      if (status !== 201) return `activate through gateway ${gateway}: ${status}`;
      const { body } = await app.ask<Partial<Verdict>>('POST', '/license/validate', { licenseKey: this.#control.key }).catch(() => ({ body: undefined }));
      if (!body?.conclusive) return `validate through gateway ${gateway}: ${JSON.stringify(body)}`;
    }
    return undefined;
  }

  /** Milliseconds since then. Rejects with what was lacking, and the end of what was printed. */
  async since(moment: number): Promise<number> {
    for (;;) {
      const missing = await this.lacking();
      const ms = performance.now() - moment;
      if (missing === undefined) return ms;
      if (ms > readyWithinMs) throw new Error(`Not ready after ${ms.toFixed()} ms: ${missing}\n${this.#product.printed.toString().slice(-4_000)}`);
      await sleep(100);
    }
  }
}
