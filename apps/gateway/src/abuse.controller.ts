import { Body, Controller, Query } from '@nestjs/common';
import { bodyOf, GetAbuseRules, LicenseDenials, ListDenials, SetAbuseRules } from '@keyledger/contracts';
import type { LicenseId } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';
import { LicenseParam } from './params.ts';

const { licenseId: _, ...range } = LicenseDenials.fields;

/** Shared licenses, and refused activations. */
@Controller()
export class AbuseController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /abuse-rules', { needs: 'settings.manage', summary: 'Abuse rules: what counts as sharing a license, and what happens then', answer: GetAbuseRules.answer })
  getAbuseRules() {
    return this.edge.send(GetAbuseRules, {});
  }

  @Route('PUT /abuse-rules', { needs: 'settings.manage', summary: 'Replace the rules; they apply to activations from now on', body: bodyOf(SetAbuseRules), answer: SetAbuseRules.answer })
  setAbuseRules(@Body() body: SetAbuseRules) {
    return this.edge.send(SetAbuseRules, body);
  }

  @Route('GET /denials', { needs: 'license.read', summary: 'Refused activations by license, and requests with unknown keys', query: ListDenials.fields, answer: ListDenials.answer })
  listDenials(@Query() query: ListDenials) {
    return this.edge.send(ListDenials, query);
  }

  @Route('GET /licenses/:id/denials', { needs: 'license.read', summary: 'Refused activations by day; retries counted separately', query: range, answer: LicenseDenials.answer, refuses: ['LICENSE_NOT_FOUND'] })
  licenseDenials(@LicenseParam() licenseId: LicenseId, @Query() query: LicenseDenials) {
    return this.edge.send(LicenseDenials, { ...query, licenseId });
  }
}
