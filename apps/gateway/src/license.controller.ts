import { Body, Controller, Req, Res } from '@nestjs/common';
import { Activated, ActivateLicense, bodyOf, DeactivateLicense, ValidateLicense, Verdict } from '@keyledger/contracts';
import { Refusal, refuse } from '@keyledger/kernel';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';
import { RateLimits } from './rate-limits.ts';

const refusals = [
  'LICENSE_NOT_FOUND', 'LICENSE_NOT_ASSIGNED', 'LICENSE_NOT_YET_EFFECTIVE', 'LICENSE_EXPIRED', 'LICENSE_INACTIVE', 'LICENSE_SUSPENDED', 'LICENSE_REVOKED',
] as const;

/** The client license API: no account, the license key is the credential. */
@Controller()
export class LicenseController {
  constructor(private readonly edge: Edge, private readonly limits: RateLimits) {}

  @Route('POST /license/activate', {
    needs: 'license-key', summary: 'Bind an instance to the license and take a seat', body: bodyOf(ActivateLicense), answer: Activated, status: 201, alsoStatus: 200,
    refuses: [...refusals, 'ACTIVATION_LIMIT_EXCEEDED', 'PRODUCT_MISMATCH', 'DEPLOYMENT_MISMATCH', 'DEPLOYMENT_MODE_MISMATCH', 'FINGERPRINT_REQUIRED', 'METADATA_TOO_LARGE'],
  })
  async activate(@Body() body: ActivateLicense, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    const { created, ...answer } = await this.#withKey(body.licenseKey, request, reply, () => this.edge.send(ActivateLicense, body));
    if (!created) void reply.status(200);
    return answer;
  }

  @Route('POST /license/validate', {
    needs: 'license-key', summary: 'Is this license good? Always 200 for a well-formed request', body: bodyOf(ValidateLicense), answer: Verdict, strictAnswer: true, safe: true,
  })
  async validate(@Body() body: ValidateLicense, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    this.limits.unknownKeys.admit(request.ip, body.licenseKey);
    await this.limits.licenseKeys.take(body.licenseKey, reply);
    const verdict = await this.edge.send(ValidateLicense, body);
    if (verdict.license) this.limits.unknownKeys.known(request.ip, body.licenseKey);
    else if (!verdict.retired) await this.limits.unknownKeys.unknown(request.ip);
    return verdict;
  }

  @Route('POST /license/deactivate', {
    needs: 'license-key', summary: 'Give the seat of an instance back', body: bodyOf(DeactivateLicense), answer: DeactivateLicense.answer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'],
  })
  deactivate(@Body() body: DeactivateLicense, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.#withKey(body.licenseKey, request, reply, () => this.edge.send(DeactivateLicense, body));
  }

  async #withKey<T>(licenseKey: string, request: FastifyRequest, reply: FastifyReply, work: () => Promise<T>): Promise<T> {
    this.limits.unknownKeys.admit(request.ip, licenseKey);
    await this.limits.licenseKeys.take(licenseKey, reply);
    try {
      const answer = await work();
      this.limits.unknownKeys.known(request.ip, licenseKey);
      return answer;
    } catch (error) {
      if (error instanceof Refusal && error.code === 'LICENSE_NOT_FOUND') {
        if (!error.members['retired']) await this.limits.unknownKeys.unknown(request.ip);
        throw refuse('LICENSE_NOT_FOUND');
      }
      throw error;
    }
  }
}
