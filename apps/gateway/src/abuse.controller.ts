import { Body, Controller, Query } from '@nestjs/common';
import { bodyOf, GetAbuseRules, LicenseDenials, ListDenials, SetAbuseRules } from '@keyledger/contracts';
import type { LicenseId } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';
import { LicenseParam } from './params.ts';

const { licenseId: _, ...range } = LicenseDenials.fields;

/** Licenses that are handed around, and people who could not get a seat. */
@Controller()
export class AbuseController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /abuse-rules', { needs: 'settings.manage', summary: 'What is taken for abuse of a license, and what follows', answer: GetAbuseRules.answer })
  getAbuseRules() {
    return this.edge.send(GetAbuseRules, {});
  }

  @Route('PUT /abuse-rules', { needs: 'settings.manage', summary: 'Replace the rules; seats taken from then on are looked at', body: bodyOf(SetAbuseRules), answer: SetAbuseRules.answer })
  setAbuseRules(@Body() body: SetAbuseRules) {
    return this.edge.send(SetAbuseRules, body);
  }

  @Route('GET /denials', { needs: 'license.read', summary: 'Licenses that somebody could not get a seat of, and keys that nobody has', query: ListDenials.fields, answer: ListDenials.answer })
  listDenials(@Query() query: ListDenials) {
    return this.edge.send(ListDenials, query);
  }

  @Route('GET /licenses/:id/denials', { needs: 'license.read', summary: 'Refused seats by day, retries apart', query: range, answer: LicenseDenials.answer, refuses: ['LICENSE_NOT_FOUND'] })
  licenseDenials(@LicenseParam() licenseId: LicenseId, @Query() query: LicenseDenials) {
    return this.edge.send(LicenseDenials, { ...query, licenseId });
  }
}
