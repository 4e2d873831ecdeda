/** Who answers whom: the service that answers → the service that asks → the subjects of the messages. */
export type Bus = Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>;

/**
 * All messages between services. A NATS server configured with `deploy/nats.conf` passes no others, and `tools/bus.spec.ts` checks this table
 * against what the services handle and send.
 */
export const bus = {
  'license-authority': {
    gateway: [
      'license.issue', 'license.get', 'license.list', 'license.suggest', 'license.totals', 'license.export', 'license.events', 'license.activations',
      'license.edit', 'license.assign', 'license.inactivate', 'license.reactivate', 'license.suspend', 'license.unsuspend', 'license.renew', 'license.revoke', 'license.erase',
      'license.regenerate-key', 'license.revoke-activation', 'license.activate', 'license.rebind', 'license.deactivate', 'license.queue-directive',
      'license.issue-file', 'license.issue-offline-file',
      'license.abuse-rules', 'license.set-abuse-rules', 'license.denials', 'license.list-denials', 'license.report-unknown-keys',
      'job.start-batch', 'job.start-import', 'job.stage-import', 'job.list', 'job.get', 'job.follow', 'job.result', 'job.take-keys', 'job.cancel',
    ],
    catalog: ['license.prepare', 'license.issue-ordered', 'license.get', 'license.count-available'],
    activation: ['license.resolve-key', 'license.bind-appliance', 'license.lose-heartbeats', 'license.recover-heartbeat'],
    'usage-metering': ['license.resolve-key', 'license.exceed-quota', 'license.restore-quota'],
    sweeper: ['license.due', 'license.due-backlog', 'license.sweep'],
  },
  activation: {
    gateway: [
      'activation.validate', 'activation.revalidate', 'activation.heartbeat', 'activation.activate-appliance', 'activation.next-changes', 'activation.acknowledge-changes',
      'activation.last-seen', 'activation.leases',
    ],
    'license-authority': ['activation.continue-lease', 'activation.see-instance'],
    sweeper: ['activation.lapsed', 'activation.lapsed-backlog', 'activation.lapse'],
  },
  catalog: {
    gateway: [
      'product.create', 'product.update', 'product.archive', 'product.get', 'product.list', 'plan.create', 'plan.update', 'plan.get', 'plan.list',
      'customer.create', 'customer.update', 'customer.get', 'customer.list', 'generator.create', 'generator.update', 'generator.get', 'generator.list',
      'order.place', 'order.get', 'order.list',
    ],
    'license-authority': ['catalog.resolve-offer', 'catalog.require-customer', 'catalog.find-customers', 'customer.get', 'generator.get', 'product.get'],
  },
  'usage-metering': {
    gateway: ['usage.report', 'usage.series', 'usage.explain'],
    activation: ['usage.record', 'usage.meters'],
    'license-authority': ['usage.meters'],
    sweeper: ['usage.due', 'usage.due-backlog', 'usage.evaluate-quotas'],
  },
  signing: {
    gateway: ['signing-key.create', 'signing-key.activate', 'signing-key.retire', 'signing-key.revoke', 'signing-key.list', 'signing-key.set', 'signing-key.roots'],
    activation: ['signing.leases', 'signing.verdicts'],
    'license-authority': ['signing.leases', 'signing.license-file', 'signing.offline-file'],
  },
  access: {
    gateway: [
      'access.authenticate', 'access.claim-request', 'access.complete-request', 'api-key.create', 'api-key.get', 'api-key.list', 'api-key.rotate', 'api-key.delete',
      'environment.list', 'environment.clock', 'environment.set-clock', 'environment.advance-clock',
    ],
  },
  notifier: {
    gateway: [
      'webhook-endpoint.create', 'webhook-endpoint.get', 'webhook-endpoint.list', 'webhook-endpoint.update', 'webhook-endpoint.delete', 'webhook-endpoint.rotate-secret',
      'webhook-endpoint.test', 'webhook-endpoint.recover', 'webhook-delivery.get', 'webhook-delivery.list', 'webhook-delivery.resend',
    ],
  },
  sweeper: { gateway: ['sweep.run', 'sweep.list'] },
} as const satisfies Bus;
