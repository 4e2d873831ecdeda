import { Body, Controller, Param, Query } from '@nestjs/common';
import {
  AssignLicense, bodyOf, EditLicense, EraseLicense, GetLicense, InactivateLicense, IssueLicense, LastSeen, Leases, licenseFilters, ListActivations, ListLicenseEvents,
  ListLicenses, IssueLicenseFile, IssueOfflineFile, ReactivateLicense, RegenerateKey, RenewLicense, RevokeActivation, RevokeLicense, SuggestLicenses, SuspendLicense, TotalLicenses, UnsuspendLicense,
  LicenseView, paging,
} from '@keyledger/contracts';
import type { ErrorCode, LicenseId } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { Route, type OperationOptions } from './operation.ts';
import { IdOf, LicenseParam } from './params.ts';

const stateful: readonly ErrorCode[] = ['LICENSE_NOT_FOUND', 'INVALID_TRANSITION', 'TERMINAL_STATE'];
const action = (type: { fields: object }, needs: OperationOptions['needs'], summary: string, refuses: readonly ErrorCode[] = []): OperationOptions => ({
  needs, summary, body: bodyOf(type as typeof AssignLicense, 'licenseId'), answer: LicenseView, versioned: true, refuses: [...stateful, ...refuses],
});

/** A subscription is named by the license it pays for. The payment processor may give a reason and nothing else. */
const subscription = (type: { fields: object }, summary: string): OperationOptions => ({
  needs: 'license.manage', summary, body: bodyOf(type as typeof SuspendLicense, 'licenseId', 'cause', 'until'), answer: LicenseView, versioned: true, refuses: stateful,
});

/** It is answered when nothing of the license is left in any file, and a large file takes a while to be written anew. */
const erasedWithinMs = 60_000;

@Controller()
export class LicensesController {
  constructor(private readonly edge: Edge) {}

  @Route('POST /licenses', {
    needs: 'license.issue', summary: 'Issue a license', body: bodyOf(IssueLicense), answer: LicenseView, status: 201, versioned: true,
    refuses: ['REFERENCE_NOT_FOUND', 'PRODUCT_ARCHIVED', 'LIMIT_OUT_OF_RANGE', 'EXPIRY_IN_PAST', 'METADATA_TOO_LARGE', 'TRIAL_TOO_LONG'],
  })
  issueLicense(@Body() body: IssueLicense) {
    return this.edge.send(IssueLicense, body);
  }

  @Route('GET /licenses', { needs: 'license.read', summary: 'Search, filter and sort licenses', query: ListLicenses.fields, answer: ListLicenses.answer })
  listLicenses(@Query() query: ListLicenses) {
    return this.edge.send(ListLicenses, query);
  }

  @Route('GET /licenses/suggest', { needs: 'license.read', summary: 'Completions for the search field', query: SuggestLicenses.fields, answer: SuggestLicenses.answer })
  suggestLicenses(@Query() query: SuggestLicenses) {
    return this.edge.send(SuggestLicenses, query);
  }

  @Route('GET /licenses/totals', { needs: 'license.read', summary: 'Totals over a filter', query: licenseFilters, answer: TotalLicenses.answer })
  totalLicenses(@Query() query: TotalLicenses) {
    return this.edge.send(TotalLicenses, query);
  }

  @Route('GET /licenses/:id', { needs: 'license.read', summary: 'One license', answer: LicenseView, versioned: true, refuses: ['LICENSE_NOT_FOUND'] })
  getLicense(@LicenseParam() licenseId: LicenseId) {
    return this.edge.send(GetLicense, { licenseId });
  }

  @Route('PATCH /licenses/:id', action(EditLicense, 'license.manage', 'Edit; takes effect at the next validation',
    ['LIMIT_OUT_OF_RANGE', 'EXPIRY_IN_PAST', 'TRIAL_TOO_LONG', 'METADATA_TOO_LARGE', 'IMMUTABLE_FIELD', 'REFERENCE_NOT_FOUND']))
  updateLicense(@LicenseParam() licenseId: LicenseId, @Body() body: EditLicense) {
    return this.edge.send(EditLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/assign', action(AssignLicense, 'license.manage', 'Assign the license to a customer, or to another one', ['REFERENCE_NOT_FOUND']))
  assignLicense(@LicenseParam() licenseId: LicenseId, @Body() body: AssignLicense) {
    return this.edge.send(AssignLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/inactivate', action(InactivateLicense, 'license.manage', 'Pause; with `until` the pause ends by itself', ['EXPIRY_IN_PAST']))
  inactivateLicense(@LicenseParam() licenseId: LicenseId, @Body() body: InactivateLicense) {
    return this.edge.send(InactivateLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/reactivate', action(ReactivateLicense, 'license.manage', 'End the pause of the named cause'))
  reactivateLicense(@LicenseParam() licenseId: LicenseId, @Body() body: ReactivateLicense) {
    return this.edge.send(ReactivateLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/suspend', action(SuspendLicense, 'license.manage', 'Suspend; with `until` the suspension ends by itself', ['EXPIRY_IN_PAST']))
  suspendLicense(@LicenseParam() licenseId: LicenseId, @Body() body: SuspendLicense) {
    return this.edge.send(SuspendLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/unsuspend', action(UnsuspendLicense, 'license.manage', 'Lift the suspension of the named cause'))
  unsuspendLicense(@LicenseParam() licenseId: LicenseId, @Body() body: UnsuspendLicense) {
    return this.edge.send(UnsuspendLicense, { ...body, licenseId });
  }

  @Route('POST /subscriptions/:id/invalidate', subscription(SuspendLicense, 'For payment processors, when a subscription is no longer paid: suspends with the cause `subscription`'))
  invalidateSubscription(@LicenseParam() licenseId: LicenseId, @Body() { reason }: SuspendLicense) {
    return this.edge.send(SuspendLicense, { licenseId, cause: 'subscription', ...(reason !== undefined && { reason }) });
  }

  @Route('POST /subscriptions/:id/restore', subscription(UnsuspendLicense, 'For payment processors, when a subscription is paid again: lifts that suspension and no other'))
  restoreSubscription(@LicenseParam() licenseId: LicenseId, @Body() { reason }: UnsuspendLicense) {
    return this.edge.send(UnsuspendLicense, { licenseId, cause: 'subscription', ...(reason !== undefined && { reason }) });
  }

  @Route('POST /licenses/:id/revoke', action(RevokeLicense, 'license.revoke', 'Revoke permanently; every activation ends at once'))
  revokeLicense(@LicenseParam() licenseId: LicenseId, @Body() body: RevokeLicense) {
    return this.edge.send(RevokeLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/renew', action(RenewLicense, 'license.manage', 'Move the expiry to a later time, even after it has passed', ['EXPIRY_NOT_LATER', 'EXPIRY_IN_PAST', 'TRIAL_TOO_LONG']))
  renewLicense(@LicenseParam() licenseId: LicenseId, @Body() body: RenewLicense) {
    return this.edge.send(RenewLicense, { ...body, licenseId });
  }

  @Route('POST /licenses/:id/regenerate-key', action(RegenerateKey, 'license.manage', 'Issue a new key; the old one and every activation end at once'))
  regenerateLicenseKey(@LicenseParam() licenseId: LicenseId, @Body() body: RegenerateKey) {
    return this.edge.send(RegenerateKey, { ...body, licenseId });
  }

  @Route('DELETE /licenses/:id', {
    needs: 'license.manage', summary: 'Erase: the data of the license becomes permanently unreadable everywhere', body: bodyOf(EraseLicense, 'licenseId'), versioned: true,
    refuses: ['LICENSE_NOT_FOUND', 'LICENSE_EVER_ACTIVATED', 'PERMISSION_DENIED'],
  })
  async eraseLicense(@LicenseParam() licenseId: LicenseId, @Body() body: EraseLicense) {
    await this.edge.send(EraseLicense, { ...body, licenseId }, { timeoutMs: erasedWithinMs });
  }

  @Route('GET /licenses/:id/activations', {
    needs: 'license.read', summary: 'Instances, newest first; ?include=ended adds those that no longer hold a seat',
    query: { include: ListActivations.fields.include, ...paging }, answer: ListActivations.answer, refuses: ['LICENSE_NOT_FOUND'],
  })
  async listLicenseActivations(@LicenseParam() licenseId: LicenseId, @Query() query: ListActivations) {
    const { data, page } = await this.edge.send(ListActivations, { ...query, licenseId });
    const activationIds = data.map(({ id }) => id);
    const [seen, leases] = await Promise.all([this.edge.send(LastSeen, { activationIds }), this.edge.send(Leases, { activationIds })]);
    return { data: data.map((instance) => ({ ...instance, lastSeenAt: seen[instance.id] ?? instance.lastSeenAt, ...(leases[instance.id] && { lease: leases[instance.id] }) })), page };
  }

  @Route('DELETE /licenses/:id/activations/:instanceId', { needs: 'license.manage', summary: 'Revoke one instance and free its seat', versioned: true, refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND'] })
  async revokeLicenseActivation(@LicenseParam() licenseId: LicenseId, @Param('instanceId', IdOf('act', 'INSTANCE_NOT_FOUND')) activationId: string) {
    await this.edge.send(RevokeActivation, { licenseId, activationId });
  }

  @Route('POST /licenses/:id/license-file', {
    needs: 'license.issue', summary: 'The signed license file, for machines that pin the root', answer: IssueLicenseFile.answer, status: 201, refuses: [...stateful, 'LICENSE_TOO_LARGE'],
    example: examples.licenseFile,
  })
  issueLicenseFile(@LicenseParam() licenseId: LicenseId) {
    return this.edge.send(IssueLicenseFile, { licenseId });
  }

  @Route('POST /licenses/:id/offline-file', {
    needs: 'license.preview', summary: 'An offline validation file: the current verdict, valid for 24 hours', body: bodyOf(IssueOfflineFile, 'licenseId'), answer: IssueOfflineFile.answer, status: 201,
    refuses: ['LICENSE_NOT_FOUND', 'INSTANCE_NOT_FOUND', 'LICENSE_TOO_LARGE'], example: examples.offlineFile,
  })
  issueOfflineFile(@LicenseParam() licenseId: LicenseId, @Body() body: IssueOfflineFile) {
    return this.edge.send(IssueOfflineFile, { ...body, licenseId });
  }

  @Route('GET /licenses/:id/events', { needs: 'license.read', summary: 'The history of the license, without secrets', query: paging, answer: ListLicenseEvents.answer, refuses: ['LICENSE_NOT_FOUND'] })
  listLicenseEvents(@LicenseParam() licenseId: LicenseId, @Query() query: ListLicenseEvents) {
    return this.edge.send(ListLicenseEvents, { ...query, licenseId });
  }
}
