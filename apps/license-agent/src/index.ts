export type * from './api.ts';
export { Agent, type AgentOptions } from './agent.ts';
export { agentConfig, BadConfig, type AgentConfig } from './config.ts';
export { startAgent, type RunningAgent, type Surroundings } from './run.ts';
