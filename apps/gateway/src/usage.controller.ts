import { Body, Controller, Query, Req, Res } from '@nestjs/common';
import { bodyOf, ExplainUsage, ReportUsage, USAGE_READ_WITHIN_MS, UsageSeries } from '@keyledger/contracts';
import type { LicenseId } from '@keyledger/kernel';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { Route } from './operation.ts';
import { LicenseParam } from './params.ts';
import { RateLimits } from './rate-limits.ts';

const { licenseId: _series, ...seriesQuery } = UsageSeries.fields;
const { licenseId: _explain, ...explainQuery } = ExplainUsage.fields;
const patience = { timeoutMs: USAGE_READ_WITHIN_MS };

/** Usage: instances report it, vendors query it. */
@Controller()
export class UsageController {
  constructor(private readonly edge: Edge, private readonly limits: RateLimits) {}

  @Route('POST /license/usage', {
    needs: 'license-key', summary: 'Report the usage of an instance; a record id counts only once, ever', body: bodyOf(ReportUsage), answer: ReportUsage.answer,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'USAGE_OUT_OF_RANGE'], example: examples.usage,
  })
  reportUsage(@Body() body: ReportUsage, @Req() request: FastifyRequest, @Res({ passthrough: true }) reply: FastifyReply) {
    return this.limits.watching(request.ip, body.licenseKey, reply, () => this.edge.send(ReportUsage, body));
  }

  @Route('GET /licenses/:id/usage', {
    needs: 'license.read', summary: 'The values of a meter by hour, day or month', query: seriesQuery, answer: UsageSeries.answer, refuses: ['LICENSE_NOT_FOUND'],
  })
  getLicenseUsage(@LicenseParam() licenseId: LicenseId, @Query() query: UsageSeries) {
    return this.edge.send(UsageSeries, { ...query, licenseId }, patience);
  }

  @Route('GET /licenses/:id/usage/explain', {
    needs: 'license.read', summary: 'How the value of a day came about: the instances and readings behind its peak', query: explainQuery, answer: ExplainUsage.answer, refuses: ['LICENSE_NOT_FOUND'],
  })
  explainLicenseUsage(@LicenseParam() licenseId: LicenseId, @Query() query: ExplainUsage) {
    return this.edge.send(ExplainUsage, { ...query, licenseId }, patience);
  }
}
