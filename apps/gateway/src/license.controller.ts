import { Body, Controller, Req, Res } from '@nestjs/common';
import { Activated, ActivateLicense, bodyOf, DeactivateLicense } from '@keyledger/contracts';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { Route } from './operation.ts';
import { network, RateLimits } from './rate-limits.ts';

const refusals = [
  'LICENSE_NOT_FOUND', 'LICENSE_NOT_ASSIGNED', 'LICENSE_NOT_YET_EFFECTIVE', 'LICENSE_EXPIRED', 'LICENSE_INACTIVE', 'LICENSE_SUSPENDED', 'LICENSE_REVOKED',
] as const;

/** The client license API: no account, the license key is the credential. Validation is in validate.route.ts. */
@Controller()
export class LicenseController {
  constructor(private readonly edge: Edge, private readonly limits: RateLimits) {}

  @Route('POST /license/activate', {
    needs: 'license-key', summary: 'Bind an instance to the license and take a seat', body: bodyOf(ActivateLicense, 'address'), answer: Activated, status: 201, alsoStatus: 200,
    refuses: [...refusals, 'ACTIVATION_LIMIT_EXCEEDED', 'PRODUCT_MISMATCH', 'DEPLOYMENT_MISMATCH', 'DEPLOYMENT_MODE_MISMATCH', 'FINGERPRINT_REQUIRED', 'METADATA_TOO_LARGE'],
    example: examples.activate,
  })
  async activateLicense(@Body() body: ActivateLicense, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    const { created, ...answer } = await this.limits.watching(request.ip, body.licenseKey, reply, () => this.edge.send(ActivateLicense, { ...body, address: network(request.ip) }));
    if (!created) void reply.status(200);
    return answer;
  }

  @Route('POST /license/deactivate', {
    needs: 'license-key', summary: 'Deactivate an instance and free its seat', body: bodyOf(DeactivateLicense), answer: DeactivateLicense.answer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'], example: examples.deactivate,
  })
  deactivateLicense(@Body() body: DeactivateLicense, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.limits.watching(request.ip, body.licenseKey, reply, () => this.edge.send(DeactivateLicense, body));
  }
}
