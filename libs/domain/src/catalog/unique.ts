import { addSeconds, refuse, type Aggregate, type ErrorCode, type Instant } from '@keyledger/kernel';

/**
 * The owner of a value that must be unique: a product code, a customer's e-mail address. Nothing is ever appended to two streams at once,
 * so the value has a stream of its own, named by kind and keyed hash, and the first claim on it wins.
 *
 * The steps are: ask the rule, claim, then append to the owner's stream at the revision that was asked about, then release the value given up,
 * if any, or the claimed one if the append was refused. Each step may be repeated. Every claim records owner and time again, so that a release
 * at the revision of the claim it knows takes nothing from another command of the same owner.
 * A process that dies between two steps leaves a claim that its owner does not confirm, either because the owner was never created or because
 * it has another value. So a refused claim proves nothing by itself: the caller reads the owner named in the refusal (`id`), and if that
 * does not have the value, claims again with `insteadOf` that owner. This takes the value over, unless another command was faster,
 * or the claim is younger than CLAIM_SETTLES_SECONDS, when its owner may still be about to appear.
 */
export type UniqueState = Readonly<{ ownerId: string; since: Instant }>;

export type UniqueCommand =
  /** `taken` is the refusal's code if another owner has it. */
  | { readonly type: 'Claim'; readonly ownerId: string; readonly taken: ErrorCode; readonly insteadOf?: string }
  | { readonly type: 'Release'; readonly ownerId: string };

export type UniqueEvent =
  | { readonly type: 'ValueClaimed'; readonly ownerId: string }
  | { readonly type: 'ValueReleased'; readonly ownerId: string };

/** Longer than any command may take from its claim to its own event. */
export const CLAIM_SETTLES_SECONDS = 60;

/** null while the value has no owner. */
export const Unique: Aggregate<UniqueState | null, UniqueCommand, UniqueEvent> = {
  category: 'unique',
  stateVersion: 1,
  shapes: { ValueClaimed: { schema: 1 }, ValueReleased: { schema: 1 } },
  initial: () => null,

  decide(holder, command, now) {
    const { ownerId } = command;
    switch (command.type) {
      case 'Claim': {
        if (holder && holder.ownerId !== ownerId && !mayTakeOver(holder, command.insteadOf, now)) throw refuse(command.taken, undefined, { id: holder.ownerId });
        return [{ type: 'ValueClaimed', ownerId }];
      }
      case 'Release': return holder?.ownerId === ownerId ? [{ type: 'ValueReleased', ownerId }] : [];
    }
  },

  evolve(_holder, event, { at }) {
    switch (event.type) {
      case 'ValueClaimed': return { ownerId: event.ownerId, since: at };
      case 'ValueReleased': return null;
    }
  },
};

const mayTakeOver = (holder: UniqueState, insteadOf: string | undefined, now: Instant): boolean =>
  holder.ownerId === insteadOf && now > addSeconds(holder.since, CLAIM_SETTLES_SECONDS);

/** The stream's id. `hash` is a keyed hash of the normalised value: values are personal data, or may be. */
export const uniqueId = (kind: 'product-code' | 'customer-email', hash: string): string => `${kind}:${hash}`;
