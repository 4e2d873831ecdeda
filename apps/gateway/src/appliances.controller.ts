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

/** Appliances, each of which stands for a deployment: they activate, send heartbeats and follow their license, with an API key or the license's own. */
@Controller()
export class AppliancesController {
  constructor(private readonly edge: Edge, private readonly limits: RateLimits, private readonly streams: LicenseStreams) {}

  @Route('POST /licenses/:id/activate', {
    ...byBox, needs: 'license.manage', summary: 'Activate an appliance and bind it to its fingerprint. Repeated: 200 with the same activation', body: bodyOf(ActivateAppliance, 'licenseId', 'licenseKey', 'address'),
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
    ...byBox, needs: 'license.manage', summary: 'Send a heartbeat; extends the lease. The same seq returns the same answer', body: bodyOf(Heartbeat, 'licenseId', 'licenseKey'), answer: HeartbeatAnswer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'FINGERPRINT_MISMATCH', 'STALE_SEQUENCE'], example: examples.heartbeat,
  })
  sendHeartbeat(@LicenseParam() licenseId: LicenseId, @Body() body: Heartbeat, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.#asked(request, reply, (by) => this.edge.send(Heartbeat, { ...body, ...by, licenseId }));
  }

  @Route('POST /licenses/:id/rebind', {
    needs: 'license.revoke', summary: 'Move an activation to other hardware; it keeps its seat, and the previous appliance is locked', body: bodyOf(RebindLicense, 'licenseId'), answer: LicenseView, versioned: true,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'INSTANCE_REQUIRED', 'FINGERPRINT_MISMATCH', 'TERMINAL_STATE'],
  })
  rebindLicense(@LicenseParam() licenseId: LicenseId, @Body() body: RebindLicense) {
    return this.edge.send(RebindLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/directives', {
    needs: 'license.manage', summary: 'Queue a directive for every active appliance of a license; delivered with each heartbeat until acknowledged', body: bodyOf(QueueDirective, 'licenseId'),
    answer: Directive, status: 201, refuses: ['LICENSE_NOT_FOUND', 'TERMINAL_STATE', 'METADATA_TOO_LARGE'], example: examples.directive,
  })
  queueDirective(@LicenseParam() licenseId: LicenseId, @Body() body: QueueDirective) {
    return this.edge.send(QueueDirective, { ...body, licenseId });
  }

  @Route('GET /licenses/:id/stream', {
    ...byBox, needs: 'license.read', summary: 'Stream changes of the license as they happen (server-sent events `state`, `change` and `end`)', query: { activationId: NextChanges.fields.activationId },
    contentType: 'text/event-stream', refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'],
    answer: Type.String({ description: 'First `state`, then `change` with the revision as its id. A new stream continues after Last-Event-ID, otherwise after the last revision the activation acknowledged' }),
  })
  async followLicense(
    @LicenseParam() licenseId: LicenseId, @Query() query: Pick<NextChanges, 'activationId'>, @Headers('last-event-id') lastEventId: string | undefined,
    @Req() request: FastifyRequest, @Res() reply: FastifyReply,
  ) {
    const stream = await this.#asked(request, reply, (by) => this.streams.open({ ...query, ...by, licenseId }, lastEventId, request));
    void reply.headers({ 'Content-Type': 'text/event-stream', 'X-Accel-Buffering': 'no' }).send(stream);
  }

  @Route('POST /licenses/:id/stream/ack', {
    ...byBox, needs: 'license.manage', summary: 'Acknowledge all changes up to this revision', body: bodyOf(AcknowledgeChanges, 'licenseId', 'licenseKey'), answer: AcknowledgeChanges.answer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'],
  })
  acknowledgeChanges(@LicenseParam() licenseId: LicenseId, @Body() body: AcknowledgeChanges, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.#asked(request, reply, (by) => this.edge.send(AcknowledgeChanges, { ...body, ...by, licenseId }));
  }

  /** The license key is passed on, to be compared with the license's, and guesses are counted. */
  #asked<T>(request: FastifyRequest, reply: FastifyReply, work: (by: { licenseKey?: string }) => Promise<T>): Promise<T> {
    const { licenseKey } = request;
    return licenseKey === undefined ? work({}) : this.limits.watching(request.ip, licenseKey, reply, () => work({ licenseKey }));
  }
}
