import { refuse, type Aggregate, type Instant, type PlanId, type ProductId } from '@keyledger/kernel';
import { expiryInPast, termsOf, type Terms, type TermsInput } from '../license/terms.ts';
import { changes } from '../metadata.ts';

/** Whether orders issue licenses, and with which terms. Omitted terms keep the default of a license. */
export type Licensing = Readonly<{ enabled: boolean } & Partial<Terms>>;
type LicensingInput = Readonly<{ enabled?: boolean } & TermsInput>;

/** An offer of a product under certain terms. null before it was created. */
export type PlanState = Readonly<{ id: PlanId; productId: ProductId; name: string; licensing: Licensing; createdAt: Instant }>;

export type PlanCommand =
  | { readonly type: 'Create'; readonly planId: PlanId; readonly productId: ProductId; readonly name: string; readonly licensing?: LicensingInput }
  /** `licensing` names what changes; the rest of it stays. Existing licenses and orders keep their terms. */
  | { readonly type: 'Update'; readonly name?: string; readonly licensing?: LicensingInput };

export type PlanEvent =
  | { readonly type: 'PlanCreated'; readonly planId: PlanId; readonly productId: ProductId; readonly name: string; readonly licensing: Licensing }
  /** `licensing` is complete, not the difference. */
  | { readonly type: 'PlanChanged'; readonly name?: string; readonly licensing?: Licensing };

/** Unlimited activations, lifetime. */
const defaults: Licensing = { enabled: false, activationLimit: -1, expiry: null };

export const Plan: Aggregate<PlanState | null, PlanCommand, PlanEvent> = {
  category: 'plan',
  stateVersion: 1,
  shapes: { PlanCreated: { schema: 1 }, PlanChanged: { schema: 1 } },
  initial: () => null,

  decide(plan, command, now) {
    switch (command.type) {
      case 'Create': return plan ? [] : [created(command, now)];
      case 'Update': {
        if (!plan) throw refuse('PLAN_NOT_FOUND');
        return changed(plan, command, now);
      }
    }
  },

  evolve(plan, event, { at }) {
    switch (event.type) {
      case 'PlanCreated': {
        const { planId, productId, name, licensing } = event;
        return { id: planId, productId, name, licensing, createdAt: at };
      }
      case 'PlanChanged': {
        const { type: _, ...change } = event;
        return plan && { ...plan, ...change };
      }
    }
  },
};

function created({ planId, productId, name, licensing }: PlanCommand & { type: 'Create' }, now: Instant): PlanEvent {
  return { type: 'PlanCreated', planId, productId, name, licensing: checked(defaults, licensing, now) };
}

function changed(plan: PlanState, { name, licensing }: PlanCommand & { type: 'Update' }, now: Instant): PlanEvent[] {
  const change = changes<Omit<PlanEvent & { type: 'PlanChanged' }, 'type'>>(plan, { name, licensing: licensing && checked(plan.licensing, licensing, now) });
  return change ? [{ type: 'PlanChanged', ...change }] : [];
}

function checked(present: Licensing, { enabled = present.enabled, ...terms }: LicensingInput = {}, now: Instant): Licensing {
  const { enabled: _, ...before } = present;
  return { enabled, ...termsGiven({ ...before, ...defined(terms) }, before, now) };
}

/**
 * Only the terms that were given, in the internal spelling; defaults are filled in when the terms are completed. A past date is refused, because
 * nothing could be sold under it; a date that has passed since stays until it is changed.
 */
export function termsGiven(input: TermsInput, present: Partial<Terms>, now: Instant): Partial<Terms> {
  const complete = termsOf(input);
  const { expiresAt } = complete;
  if (expiresAt && expiresAt <= now && expiresAt !== present.expiresAt) throw expiryInPast(expiresAt);
  const names = (Object.keys(complete) as (keyof Terms)[]).filter((name) => input[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, complete[name]]));
}

const defined = (terms: TermsInput): TermsInput => Object.fromEntries(Object.entries(terms).filter(([, value]) => value !== undefined));

export const planView = ({ id, productId, name, licensing, createdAt }: PlanState) => ({ id, productId, name, licensing, createdAt });
