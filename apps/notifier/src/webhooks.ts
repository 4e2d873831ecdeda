import { createHmac } from 'node:crypto';
import { signingSecrets, WebhookEndpoint, type WebhookEndpointCommand, type WebhookEndpointEvent, type WebhookEndpointState } from '@keyledger/domain';
import { Aggregates, EventStores } from '@keyledger/event-store';
import { context, type WebhookEndpointId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Injectable } from '@nestjs/common';
import type { Channel } from './courier.ts';
import type { Answer, Egress } from './egress.ts';
import type { ClaimedParcel } from './outbox.ts';

/** The endpoints' streams, which only the notifier writes. */
@Injectable()
export class Endpoints extends Aggregates<WebhookEndpointState | null, WebhookEndpointCommand, WebhookEndpointEvent> {
  constructor(events: EventStores, keyrings: Keyrings) {
    super(WebhookEndpoint, events, keyrings);
  }
}

/** As in Standard Webhooks: an HMAC over id, time and body for each secret, so that a receiver needs to know only one of them. `seconds` since 1970. */
const signatureOf = (secrets: readonly string[], id: string, seconds: number, body: string): string =>
  secrets.map((secret) => `v1,${createHmac('sha256', Buffer.from(secret.replace(/^whsec_/, ''), 'base64')).update(`${id}.${seconds}.${body}`).digest('base64')}`).join(' ');

/** Webhooks over HTTP. */
export class WebhookChannel implements Channel {
  constructor(private readonly endpoints: Endpoints, private readonly egress: Egress) {}

  async attempt({ id, target, body }: ClaimedParcel, signal: AbortSignal): Promise<Answer | string> {
    const { now } = context();
    const to = await this.endpoints.load(target, (endpoint) => endpoint && !endpoint.deleted && { url: endpoint.url, disabled: endpoint.disabledBy !== null, secrets: signingSecrets(endpoint, now) });
    if (!to || to.url === null) return 'the endpoint was deleted';
    if (to.disabled) return 'the endpoint was disabled';
    // Receivers compare the timestamp with their own clock, so it is real time in every environment.
    const seconds = Math.floor(Date.now() / 1000);
    return this.egress.post(to.url, {
      'content-type': 'application/json', 'user-agent': 'Keyledger-Webhooks',
      'webhook-id': id, 'webhook-timestamp': String(seconds), 'webhook-signature': signatureOf(to.secrets, id, seconds, body),
    }, body, signal);
  }

  async giveUp(target: string, cause: 'failing' | 'gone'): Promise<void> {
    await this.endpoints.run(target as WebhookEndpointId, { type: 'Disable', cause });
  }
}
