export { gatewayConfig, type GatewayConfig } from './config.ts';
export { createGateway, type GatewayPlatform } from './gateway.module.ts';
