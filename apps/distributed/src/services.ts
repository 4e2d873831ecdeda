/**
 * Every service that runs as a process of its own, in the order in which they are stopped: the doors first. They are started the other way round.
 * `busy`: asked by every client all the time; the others make do with less memory for what is short-lived.
 */
export const services = [
  { name: 'gateway', alias: undefined, busy: true },
  { name: 'sweeper', alias: undefined, busy: false },
  { name: 'notifier', alias: undefined, busy: false },
  { name: 'activation', alias: undefined, busy: true },
  { name: 'catalog', alias: undefined, busy: false },
  { name: 'usage-metering', alias: 'metering', busy: false },
  { name: 'license-authority', alias: 'authority', busy: true },
  { name: 'signing', alias: undefined, busy: true },
  { name: 'access', alias: undefined, busy: false },
] as const;

export type ServiceName = (typeof services)[number]['name'];
