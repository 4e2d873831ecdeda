import {
  CreateWebhookEndpoint, DeleteWebhookEndpoint, GetWebhookDelivery, GetWebhookEndpoint, ListWebhookDeliveries, ListWebhookEndpoints, RecoverWebhookEndpoint, ResendWebhookDelivery,
  RotateWebhookSecret, TestWebhookEndpoint, UpdateWebhookEndpoint, type WebhookDeliveryView, type WebhookEndpointView,
} from '@keyledger/contracts';
import { enabled, existing, instantIn, TEST_TYPE, webhookEndpointView, type WebhookEndpointState } from '@keyledger/domain';
import { context, newId, refuse, type WebhookDeliveryId, type WebhookEndpointId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { page, Projectors } from '@keyledger/read-models';
import { Announcers } from './announcer.ts';
import { Courier } from './courier.ts';
import { Egress } from './egress.ts';
import { deliveryOf, Outbox } from './outbox.ts';
import { Endpoints } from './webhooks.ts';

const viewNow = () => {
  const { now } = context();
  return (state: WebhookEndpointState | null, revision: number): WebhookEndpointView => ({ ...webhookEndpointView(existing(state), now), revision });
};

@Handles(CreateWebhookEndpoint, UpdateWebhookEndpoint, RotateWebhookSecret, DeleteWebhookEndpoint)
export class EndpointCommands {
  constructor(private readonly endpoints: Endpoints, private readonly keyrings: Keyrings, private readonly egress: Egress) {}

  async execute(command: CreateWebhookEndpoint | UpdateWebhookEndpoint | RotateWebhookSecret | DeleteWebhookEndpoint) {
    if (command instanceof CreateWebhookEndpoint) return this.#create(command);
    const { endpointId } = command;
    if (command instanceof RotateWebhookSecret) return this.#rotate(endpointId);
    if (command instanceof UpdateWebhookEndpoint) {
      const { endpointId: _, ...change } = command;
      await this.endpoints.load(endpointId, existing);
      if (change.url !== undefined) await this.egress.mustBeAllowed(change.url);
      return this.endpoints.run(endpointId, { type: 'Update', ...change }, viewNow());
    }
    await this.endpoints.run(endpointId, { type: 'Delete' });
    return null;
  }

  async #create({ url, events, description = null }: CreateWebhookEndpoint) {
    await this.egress.mustBeAllowed(url);
    const endpointId = newId('whk');
    const secret = this.#secret(endpointId);
    return { ...(await this.endpoints.create(endpointId, { type: 'Create', endpointId, url, events: [...new Set(events)], description, secret }, viewNow())), secret };
  }

  async #rotate(endpointId: WebhookEndpointId) {
    const secret = this.#secret(endpointId);
    return { ...(await this.endpoints.run(endpointId, { type: 'RotateSecret', secret }, viewNow())), secret };
  }

  /** Derived from the command, so that the retry of a request whose answer was lost shows the secret that is in force. */
  #secret(endpointId: WebhookEndpointId): string {
    const bytes = Buffer.from(this.keyrings.here().hmac('webhook-secret', `${context().commandId}/${endpointId}`), 'base64url');
    return `whsec_${bytes.toString('base64')}`;
  }
}

@Handles(GetWebhookEndpoint, ListWebhookEndpoints)
export class EndpointQueries {
  constructor(private readonly endpoints: Endpoints, private readonly projectors: Projectors, private readonly log: Log) {}

  async execute(query: GetWebhookEndpoint | ListWebhookEndpoints) {
    return query instanceof GetWebhookEndpoint ? this.endpoints.load(query.endpointId, viewNow()) : this.#list(query);
  }

  async #list({ limit = 25, cursor }: ListWebhookEndpoints) {
    // Not in turn with the large lists of other services: these rows are few.
    const rows = (await this.projectors.current()).sql<{ notifier_endpoint_list: { id: WebhookEndpointId } }>().selectFrom('notifier_endpoint_list').select('id');
    const { data, page: position } = await page(rows, { createdAt: { column: 'created_at', kind: 'text' } }, { sort: '-createdAt', limit, cursor });
    const { now } = context();
    const view = (state: WebhookEndpointState | null, revision: number) => (state && !state.deleted ? { ...webhookEndpointView(state, now), revision } : undefined);
    return { data: await this.endpoints.loadAll(data.map(({ id }) => id), view, this.log), page: position };
  }
}

@Handles(TestWebhookEndpoint, RecoverWebhookEndpoint, ResendWebhookDelivery)
export class DeliveryCommands {
  constructor(private readonly endpoints: Endpoints, private readonly outbox: Outbox, private readonly announcers: Announcers, private readonly courier: Courier) {}

  async execute(command: TestWebhookEndpoint | RecoverWebhookEndpoint | ResendWebhookDelivery) {
    const { environment } = context();
    try {
      if (command instanceof TestWebhookEndpoint) return await this.#test(command.endpointId);
      return command instanceof RecoverWebhookEndpoint ? await this.#recover(command) : await this.#resend(command.deliveryId);
    } finally {
      this.courier.wake(environment);
    }
  }

  async #test(endpointId: WebhookEndpointId): Promise<WebhookDeliveryView> {
    const { environment, now: timestamp } = context();
    await this.endpoints.load(endpointId, enabled);
    const id = newId('whd');
    await this.outbox.add({ id, target: endpointId, type: TEST_TYPE, timestamp, body: JSON.stringify({ type: TEST_TYPE, timestamp, data: { environment, endpointId } }) });
    return this.#find(id);
  }

  async #resend(id: WebhookDeliveryId): Promise<WebhookDeliveryView> {
    const { endpointId } = await this.#find(id);
    await this.endpoints.load(endpointId, enabled);
    await this.outbox.again(id, context().now);
    return this.#find(id);
  }

  async #recover({ endpointId, since: text }: RecoverWebhookEndpoint) {
    const asked = instantIn('since', text);
    const { createdAt } = await this.endpoints.load(endpointId, enabled);
    // What was before it was there it never asked for.
    const since = asked > createdAt ? asked : createdAt;
    await this.announcers.recover(endpointId, since);
    return { since, requeued: await this.outbox.againSince(endpointId, since, context().now) };
  }

  #find(id: WebhookDeliveryId): Promise<WebhookDeliveryView> {
    return find(id, this.outbox, this.announcers);
  }
}

/** Only a delivery that is not there (yet) waits until everything is announced. */
async function find(id: WebhookDeliveryId, outbox: Outbox, announcers: Announcers): Promise<WebhookDeliveryView> {
  const found = await outbox.find(id) ?? await announcers.current().then(() => outbox.find(id));
  if (!found) throw refuse('WEBHOOK_DELIVERY_NOT_FOUND');
  return found;
}

@Handles(GetWebhookDelivery, ListWebhookDeliveries)
export class DeliveryQueries {
  constructor(private readonly outbox: Outbox, private readonly announcers: Announcers) {}

  async execute(query: GetWebhookDelivery | ListWebhookDeliveries) {
    if (query instanceof GetWebhookDelivery) return find(query.deliveryId, this.outbox, this.announcers);
    const database = await this.announcers.current();
    const { limit = 25, cursor } = query;
    // Their number is unbounded: to find those of a status may take seconds, and counting them takes longer than PostgreSQL is given for a statement.
    const { data, page: position } = await database.listing((lists) =>
      page(this.outbox.list(query, lists), { timestamp: { column: 'timestamp', kind: 'text' } }, { sort: '-timestamp', limit, cursor, total: false }));
    return { data: data.map(deliveryOf), page: position };
  }
}
