/** Every service that runs as a process of its own, in the order in which they are stopped: the doors first. They are started the other way round. */
export const services = [
  { name: 'gateway', alias: undefined },
  { name: 'sweeper', alias: undefined },
  { name: 'activation', alias: undefined },
  { name: 'catalog', alias: undefined },
  { name: 'usage-metering', alias: 'metering' },
  { name: 'license-authority', alias: 'authority' },
  { name: 'signing', alias: undefined },
  { name: 'access', alias: undefined },
] as const;

export type ServiceName = (typeof services)[number]['name'];
