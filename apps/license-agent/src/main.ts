#!/usr/bin/env node
import { pino } from 'pino';
import { agentConfig, BadConfig, withFlags } from './config.ts';
import { startAgent } from './run.ts';

try {
  const config = agentConfig(withFlags(process.argv.slice(2)));
  const log = pino({ level: config.logLevel });
  const agent = await startAgent(config, { log });
  if (agent.isNewToken) process.stdout.write(`Agent token (printed once, kept in ${config.dataDir}): ${agent.token}\n`);
  process.stdout.write(`The license agent is ready at ${agent.url}\n`);
  let ending = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (ending) return;
      ending = true;
      void agent.close().then(() => process.exit(0));
    });
  }
} catch (error) {
  process.stderr.write(`${error instanceof BadConfig || (error as NodeJS.ErrnoException).code === 'EADDRINUSE' || (error as NodeJS.ErrnoException).code === 'EACCES' ? (error as Error).message : String((error as Error).stack)}\n`);
  process.exit(1);
}
