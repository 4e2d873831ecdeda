import { refuse, type Aggregate, type GeneratorId, type Instant, type PlanId, type ProductId } from '@keyledger/kernel';
import type { Terms, TermsInput } from '../license/terms.ts';
import { checkKeyFormat, type KeyFormat } from '../license-key.ts';
import { changes } from '../metadata.ts';
import { termsGiven } from './plan.ts';

/** A template for keys and terms. null before it was created. `terms` override those of the plan. */
export type GeneratorState = Readonly<{
  id: GeneratorId; name: string; productId: ProductId; planId: PlanId | null; keyFormat: KeyFormat; terms: Partial<Terms>; createdAt: Instant;
}>;

type Changeable = { readonly name: string; readonly planId: PlanId | null; readonly keyFormat: KeyFormat; readonly terms: Partial<Terms> };
type Wanted = Partial<Omit<Changeable, 'terms'>> & { readonly terms?: TermsInput };

export type GeneratorCommand =
  | ({ readonly type: 'Create'; readonly generatorId: GeneratorId; readonly productId: ProductId; readonly name: string; readonly keyFormat: KeyFormat } & Wanted)
  /** `keyFormat` and `terms` are replaced as a whole. The product stays: existing keys may carry its prefix. */
  | ({ readonly type: 'Update' } & Wanted);

export type GeneratorEvent =
  | ({ readonly type: 'GeneratorCreated'; readonly generatorId: GeneratorId; readonly productId: ProductId } & Changeable)
  | ({ readonly type: 'GeneratorChanged' } & Partial<Changeable>);

export const Generator: Aggregate<GeneratorState | null, GeneratorCommand, GeneratorEvent> = {
  category: 'generator',
  stateVersion: 1,
  shapes: { GeneratorCreated: { schema: 1 }, GeneratorChanged: { schema: 1 } },
  initial: () => null,

  decide(generator, command, now) {
    switch (command.type) {
      case 'Create': {
        if (generator) return [];
        const { generatorId, name, productId, planId = null, keyFormat, terms = {} } = command;
        checkKeyFormat(keyFormat);
        return [{ type: 'GeneratorCreated', generatorId, name, productId, planId, keyFormat, terms: termsGiven(terms, {}, now) }];
      }
      case 'Update': {
        if (!generator) throw refuse('GENERATOR_NOT_FOUND');
        const { name, planId, keyFormat, terms } = command;
        if (keyFormat) checkKeyFormat(keyFormat);
        const change = changes<Changeable>(generator, { name, planId, keyFormat, terms: terms && termsGiven(terms, generator.terms, now) });
        return change ? [{ type: 'GeneratorChanged', ...change }] : [];
      }
    }
  },

  evolve(generator, event, { at }) {
    switch (event.type) {
      case 'GeneratorCreated': {
        const { type: _, generatorId, ...rest } = event;
        return { id: generatorId, ...rest, createdAt: at };
      }
      case 'GeneratorChanged': {
        const { type: _, ...change } = event;
        return generator && { ...generator, ...change };
      }
    }
  },
};

export const generatorView = ({ id, name, productId, planId, keyFormat, terms, createdAt }: GeneratorState) =>
  ({ id, name, productId, planId, keyFormat, terms, createdAt });
