import { refuse, type Aggregate, type Instant } from '@keyledger/kernel';

/** An isolated world, named for ever: files, schemas, keys and streams carry the name. null before it was created. */
export type EnvironmentState = Readonly<{ name: string; createdAt: Instant }>;
export type EnvironmentCommand = { readonly type: 'Create'; readonly name: string };
export type EnvironmentEvent = { readonly type: 'EnvironmentCreated'; readonly name: string };

/** The name becomes part of file, schema and stream names, so it says nothing that one of them could take for something else. */
export const environmentNamePattern = '^[a-z][a-z0-9-]{0,31}$';

export const Environment: Aggregate<EnvironmentState | null, EnvironmentCommand, EnvironmentEvent> = {
  category: 'environment',
  stateVersion: 1,
  shapes: { EnvironmentCreated: { schema: 1 } },
  initial: () => null,

  decide(environment, { name }) {
    if (environment) return [];
    if (!new RegExp(environmentNamePattern).test(name)) {
      throw refuse('VALIDATION_FAILED', 'Not the name of an environment', { errors: [{ pointer: '/name', detail: `must match ${environmentNamePattern}` }] });
    }
    return [{ type: 'EnvironmentCreated', name }];
  },

  evolve: (_environment, { name }, { at }) => ({ name, createdAt: at }),
};

export const environmentView = ({ name, createdAt }: EnvironmentState) => ({ name, createdAt });
