import { runService } from '@keyledger/process';
import { gatewayConfig } from './config.ts';
import { createGateway } from './index.ts';
import { LastKnownVerdicts } from './last-known.ts';

await runService('gateway', async (host) => {
  const config = gatewayConfig();
  const gateway = await createGateway({ ...host, config, lastKnown: new LastKnownVerdicts() });
  await gateway.listen(config.port, config.host);
  return { url: await gateway.getUrl(), stopListening: () => gateway.close() };
});
