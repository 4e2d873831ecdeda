import { Body, Controller, Param, Query } from '@nestjs/common';
import {
  bodyOf, CreateWebhookEndpoint, DeleteWebhookEndpoint, GetWebhookDelivery, GetWebhookEndpoint, ListWebhookDeliveries, ListWebhookEndpoints, RecoverWebhookEndpoint, ResendWebhookDelivery,
  RotateWebhookSecret, TestWebhookEndpoint, UpdateWebhookEndpoint, WebhookDeliveryView, WebhookEndpointView,
} from '@keyledger/contracts';
import type { WebhookDeliveryId, WebhookEndpointId } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { Route } from './operation.ts';
import { IdOf } from './params.ts';

const EndpointParam = () => Param('id', IdOf('whk', 'WEBHOOK_ENDPOINT_NOT_FOUND'));
const DeliveryParam = () => Param('id', IdOf('whd', 'WEBHOOK_DELIVERY_NOT_FOUND'));
const needs = 'webhook.manage';

/** Endpoints to which events are sent, and the outcome of each delivery. */
@Controller()
export class WebhooksController {
  constructor(private readonly edge: Edge) {}

  @Route('POST /webhook-endpoints', {
    needs, summary: 'Create a webhook endpoint; its signing secret is shown once', body: bodyOf(CreateWebhookEndpoint), answer: CreateWebhookEndpoint.answer, status: 201, versioned: true,
    refuses: ['WEBHOOK_URL_REFUSED'], example: examples.createWebhookEndpoint,
  })
  createWebhookEndpoint(@Body() body: CreateWebhookEndpoint) {
    return this.edge.send(CreateWebhookEndpoint, body);
  }

  @Route('GET /webhook-endpoints', { needs, summary: 'Endpoints, newest first', query: ListWebhookEndpoints.fields, answer: ListWebhookEndpoints.answer })
  listWebhookEndpoints(@Query() query: ListWebhookEndpoints) {
    return this.edge.send(ListWebhookEndpoints, query);
  }

  @Route('GET /webhook-endpoints/:id', { needs, summary: 'One endpoint', answer: WebhookEndpointView, versioned: true, refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND'] })
  getWebhookEndpoint(@EndpointParam() endpointId: WebhookEndpointId) {
    return this.edge.send(GetWebhookEndpoint, { endpointId });
  }

  @Route('PATCH /webhook-endpoints/:id', {
    needs, summary: 'Change an endpoint, or enable it again', body: bodyOf(UpdateWebhookEndpoint, 'endpointId'), answer: WebhookEndpointView, versioned: true, refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND', 'WEBHOOK_URL_REFUSED'],
  })
  updateWebhookEndpoint(@EndpointParam() endpointId: WebhookEndpointId, @Body() body: UpdateWebhookEndpoint) {
    return this.edge.send(UpdateWebhookEndpoint, { ...body, endpointId });
  }

  @Route('DELETE /webhook-endpoints/:id', { needs, summary: 'Delete; pending deliveries are dropped', versioned: true, refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND'] })
  async deleteWebhookEndpoint(@EndpointParam() endpointId: WebhookEndpointId) {
    await this.edge.send(DeleteWebhookEndpoint, { endpointId });
  }

  @Route('POST /webhook-endpoints/:id/rotate-secret', { needs, summary: 'Rotate the secret; for a day both sign', answer: RotateWebhookSecret.answer, versioned: true, refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND'] })
  rotateWebhookSecret(@EndpointParam() endpointId: WebhookEndpointId) {
    return this.edge.send(RotateWebhookSecret, { endpointId });
  }

  @Route('POST /webhook-endpoints/:id/test', { needs, summary: 'Send a webhook.test event', answer: WebhookDeliveryView, refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND', 'WEBHOOK_ENDPOINT_DISABLED'] })
  testWebhookEndpoint(@EndpointParam() endpointId: WebhookEndpointId) {
    return this.edge.send(TestWebhookEndpoint, { endpointId });
  }

  @Route('POST /webhook-endpoints/:id/recover', {
    needs, summary: 'Resend failed deliveries since then, including events missed while disabled', body: bodyOf(RecoverWebhookEndpoint, 'endpointId'), answer: RecoverWebhookEndpoint.answer,
    refuses: ['WEBHOOK_ENDPOINT_NOT_FOUND', 'WEBHOOK_ENDPOINT_DISABLED'],
  })
  recoverWebhookEndpoint(@EndpointParam() endpointId: WebhookEndpointId, @Body() body: RecoverWebhookEndpoint) {
    return this.edge.send(RecoverWebhookEndpoint, { ...body, endpointId });
  }

  @Route('GET /webhook-deliveries', { needs, summary: 'Deliveries, sent and pending, newest first; kept for 30 days', query: ListWebhookDeliveries.fields, answer: ListWebhookDeliveries.answer })
  listWebhookDeliveries(@Query() query: ListWebhookDeliveries) {
    return this.edge.send(ListWebhookDeliveries, query);
  }

  @Route('GET /webhook-deliveries/:id', { needs, summary: 'One delivery', answer: WebhookDeliveryView, refuses: ['WEBHOOK_DELIVERY_NOT_FOUND'] })
  getWebhookDelivery(@DeliveryParam() deliveryId: WebhookDeliveryId) {
    return this.edge.send(GetWebhookDelivery, { deliveryId });
  }

  @Route('POST /webhook-deliveries/:id/resend', { needs, summary: 'Send a delivery again, with the same webhook-id', answer: WebhookDeliveryView, refuses: ['WEBHOOK_DELIVERY_NOT_FOUND', 'WEBHOOK_ENDPOINT_NOT_FOUND', 'WEBHOOK_ENDPOINT_DISABLED'] })
  resendWebhookDelivery(@DeliveryParam() deliveryId: WebhookDeliveryId) {
    return this.edge.send(ResendWebhookDelivery, { deliveryId });
  }
}
