import { standaloneConfig } from './config.ts';
import { startStandalone } from './standalone.ts';

const say = (line: string) => void process.stdout.write(`${line}\n`);

try {
  const keyledger = await startStandalone(standaloneConfig(), say);
  say(`Keyledger is ready at ${keyledger.url}  (API reference: ${keyledger.url}/docs)`);
  const stop = () => {
    process.off('SIGINT', stop).off('SIGTERM', stop);
    keyledger.close().then(() => process.exit(), (error: unknown) => {
      process.stderr.write(`${String(error)}\n`);
      process.exit(1);
    });
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
} catch (error) {
  process.stderr.write(`Keyledger cannot start: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(1);
}
