import { WebhookEndpoint, type WebhookEndpointState } from '@keyledger/domain';
import { projection, type Migration } from '@keyledger/read-models';
import { defineEntity, p } from '@mikro-orm/sql';

/**
 * What has to be sent follows from the log, so it is kept as rows, the last of them written in one transaction with the read position in the log (in `reactions`).
 * `notifier_outbox` has everything for a target, an endpoint or `mail`. `next_at` is in the time of the environment, `claimed_until` in real time, both milliseconds.
 * `notifier_endpoints` is what is wanted as of that place in the log; `notifier_hours` the place before each hour's first event.
 */
export const notifierTables: Migration = {
  name: 'notifier-1-outbox',
  async up({ run }) {
    await run(`create table notifier_endpoints (
      id text primary key, revision bigint not null, enabled integer not null, deleted integer not null, events text not null, created_at text not null, failing_since text
    )`);
    await run('create index notifier_endpoints_created_at on notifier_endpoints (created_at, id)');
    await run(`create table notifier_outbox (
      id text primary key, target text not null, type text not null, timestamp text not null, body text not null, status text not null, attempts integer not null,
      next_at bigint not null, claimed_until bigint not null, last_at text, last_status integer, last_error text, last_ms integer, response text
    )`);
    await run("create index notifier_outbox_due on notifier_outbox (target, next_at, id) where status = 'pending'");
    await run('create index notifier_outbox_target on notifier_outbox (target, timestamp, id)');
    await run('create index notifier_outbox_timestamp on notifier_outbox (timestamp, id)');
    await run('create table notifier_hours (hour text primary key, position bigint not null)');
    await run('create table notifier_replays (endpoint_id text primary key, since text not null, position bigint not null, until bigint not null)');
  },
};

/** Failures are few, and are looked up among all deliveries. */
export const failedIndex: Migration = {
  name: 'notifier-2-failed',
  up: ({ run }) => run("create index notifier_outbox_failed on notifier_outbox (timestamp, id) where status = 'failed'"),
};

/** Older releases told the id of a deployment, and the outbox, which is not erased with a license, would send it again. They listed endpoints by an index. */
export const withoutLeftovers: Migration = {
  name: 'notifier-3-without-leftovers',
  async up({ run, dialect }) {
    await run(`update notifier_outbox set body = ${dialect === 'sqlite' ? "json_set(body, '$.data.deploymentId', null)" : "jsonb_set(body::jsonb, '{data,deploymentId}', 'null')::text"}
      where type = 'license.activated'`);
    await run('drop index notifier_endpoints_created_at');
  },
};

/** Failed deliveries of one endpoint, and pending ones of all: mostly there are none, and to find that out took reading every delivery. */
export const rareIndexes: Migration = {
  name: 'notifier-4-rare',
  async up({ run }) {
    await run("create index notifier_outbox_failed_of_target on notifier_outbox (target, timestamp, id) where status = 'failed'");
    await run("create index notifier_outbox_pending on notifier_outbox (timestamp, id) where status = 'pending'");
  },
};

/** The list of the endpoints, which waits for nothing that has to be announced: `notifier_endpoints` is as of the place up to which that is done. */
export const EndpointEntity = defineEntity({
  name: 'NotifierEndpoint', tableName: 'notifier_endpoint_list', properties: { id: p.string().primary(), revision: p.integer(), createdAt: p.string() }, indexes: [{ properties: ['createdAt', 'id'] }],
});

export const endpointList = projection({
  name: 'notifier-endpoint-list', version: 1, source: WebhookEndpoint, entity: EndpointEntity,
  row: (endpoint: WebhookEndpointState | null, { id, revision }) => (endpoint && !endpoint.deleted ? { id, revision, createdAt: endpoint.createdAt } : null),
});
