import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from '@jest/globals';
import type { Vector, Vectors } from './crafted.contract.ts';

export const { pins, jwks, vectors } = JSON.parse(readFileSync(new URL('./vectors.json', import.meta.url), 'utf8')) as Vectors;

/** `ACCEPTED` or why not: one vector, judged by a verifier that has pinned `pins` and learned `jwks`. */
export type Judge = (vector: Vector) => Promise<string>;

/** Whoever verifies (server, SDK, agent) accepts what is good and refuses what was crafted, each for the same reason. */
export function vectorsContract(name: string, open: (trust: Pick<Vectors, 'pins' | 'jwks'>) => Promise<Judge>): void {
  describe(`${name} judges like everybody else:`, () => {
    let judge: Judge;
    beforeAll(async () => {
      judge = await open({ pins, jwks });
    });
    it.each(vectors.map((vector) => [vector.name, vector.result, vector] as const))('%s → %s', async (_name, result, vector) => {
      expect(await judge(vector)).toBe(result);
    });
  });
}
export type { Vector, Vectors } from './crafted.contract.ts';
