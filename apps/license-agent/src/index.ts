export type * from './api.ts';
export { Agent } from './agent.ts';
export { agentConfig, BadConfig, type AgentConfig } from './config.ts';
export type { AgentOptions } from './open-license.ts';
export { startAgent, type RunningAgent, type Surroundings } from './run.ts';
