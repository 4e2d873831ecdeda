import { Body, Controller, Headers, Query, Req, Res } from '@nestjs/common';
import {
  AcknowledgeChanges, ActivateAppliance, bodyOf, Directive, Heartbeat, HeartbeatAnswer, LicenseView, NextChanges, QueueDirective, RebindLicense,
} from '@keyledger/contracts';
import type { LicenseId } from '@keyledger/kernel';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { LicenseStreams } from './license-streams.ts';
import { Route, type OperationOptions } from './operation.ts';
import { LicenseParam } from './params.ts';
import { network, RateLimits } from './rate-limits.ts';

const { created: _, ...activated } = ActivateAppliance.answer.properties;
const byBox = { orLicenseKey: true } as const satisfies Partial<OperationOptions>;

/** Boxes that stand for a deployment: they activate, send heartbeats and follow their license, by an API key or by the license's own. */
@Controller()
export class AppliancesController {
  constructor(private readonly edge: Edge, private readonly limits: RateLimits, private readonly streams: LicenseStreams) {}

  @Route('POST /licenses/:id/activate', {
    ...byBox, needs: 'license.manage', summary: 'First run of an appliance: binds its fingerprint. Again: 200 with the same activation', body: bodyOf(ActivateAppliance, 'licenseId', 'licenseKey', 'address'),
    answer: Type.Object(activated), status: 201, alsoStatus: 200,
    refuses: [
      'LICENSE_NOT_FOUND', 'LICENSE_NOT_ASSIGNED', 'LICENSE_NOT_YET_EFFECTIVE', 'LICENSE_EXPIRED', 'LICENSE_INACTIVE', 'LICENSE_SUSPENDED', 'LICENSE_REVOKED', 'FINGERPRINT_MISMATCH',
    ],
    example: examples.activateAppliance,
  })
  async activateAppliance(@LicenseParam() licenseId: LicenseId, @Body() body: ActivateAppliance, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    const { created, ...answer } = await this.#asked(request, reply, (by) => this.edge.send(ActivateAppliance, { ...body, ...by, licenseId, address: network(request.ip) }));
    if (!created) void reply.status(200);
    return answer;
  }

  @Route('POST /licenses/:id/heartbeat', {
    ...byBox, needs: 'license.manage', summary: 'A sign of life, which extends the lease. The same seq again: the same answer', body: bodyOf(Heartbeat, 'licenseId', 'licenseKey'), answer: HeartbeatAnswer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'FINGERPRINT_MISMATCH', 'STALE_SEQUENCE'], example: examples.heartbeat,
  })
  sendHeartbeat(@LicenseParam() licenseId: LicenseId, @Body() body: Heartbeat, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.#asked(request, reply, (by) => this.edge.send(Heartbeat, { ...body, ...by, licenseId }));
  }

  @Route('POST /licenses/:id/rebind', {
    needs: 'license.revoke', summary: 'Move an activation to other hardware; it keeps its seat, and the box before is locked', body: bodyOf(RebindLicense, 'licenseId'), answer: LicenseView, versioned: true,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'FINGERPRINT_MISMATCH', 'TERMINAL_STATE'],
  })
  rebindLicense(@LicenseParam() licenseId: LicenseId, @Body() body: RebindLicense) {
    return this.edge.send(RebindLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/directives', {
    needs: 'license.manage', summary: 'Tell the boxes of a license to do something; each hears of it with its heartbeats until it acknowledges it', body: bodyOf(QueueDirective, 'licenseId'),
    answer: Directive, status: 201, refuses: ['LICENSE_NOT_FOUND', 'TERMINAL_STATE', 'METADATA_TOO_LARGE'], example: examples.directive,
  })
  queueDirective(@LicenseParam() licenseId: LicenseId, @Body() body: QueueDirective) {
    return this.edge.send(QueueDirective, { ...body, licenseId });
  }

  @Route('GET /licenses/:id/stream', {
    ...byBox, needs: 'license.read', summary: 'Changes of the license as they happen (server-sent events `state`, `change` and `end`)', query: { activationId: NextChanges.fields.activationId },
    contentType: 'text/event-stream', refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'],
    answer: Type.String({ description: 'First `state`, then `change` with the revision as its id. A new stream goes on after Last-Event-ID, else after what the activation has acknowledged' }),
  })
  async followLicense(
    @LicenseParam() licenseId: LicenseId, @Query() query: Pick<NextChanges, 'activationId'>, @Headers('last-event-id') lastEventId: string | undefined,
    @Req() request: FastifyRequest, @Res() reply: FastifyReply,
  ) {
    const stream = await this.#asked(request, reply, (by) => this.streams.open({ ...query, ...by, licenseId }, lastEventId, request));
    void reply.headers({ 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' }).send(stream);
  }

  @Route('POST /licenses/:id/stream/ack', {
    ...byBox, needs: 'license.manage', summary: 'Everything up to this revision has arrived', body: bodyOf(AcknowledgeChanges, 'licenseId', 'licenseKey'), answer: AcknowledgeChanges.answer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'],
  })
  acknowledgeChanges(@LicenseParam() licenseId: LicenseId, @Body() body: AcknowledgeChanges, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.#asked(request, reply, (by) => this.edge.send(AcknowledgeChanges, { ...body, ...by, licenseId }));
  }

  /** A license key goes along, to be compared with the license's; and guessing shows. */
  #asked<T>(request: FastifyRequest, reply: FastifyReply, work: (by: { licenseKey?: string }) => Promise<T>): Promise<T> {
    const { licenseKey } = request;
    return licenseKey === undefined ? work({}) : this.limits.watching(request.ip, licenseKey, reply, () => work({ licenseKey }));
  }
}
