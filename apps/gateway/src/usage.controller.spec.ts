import { expect, it, jest } from '@jest/globals';
import { ExplainUsage, USAGE_READ_WITHIN_MS, UsageSeries } from '@keyledger/contracts';
import { sampleId } from './fakes.contract.ts';
import { UsageController } from './usage.controller.ts';

it('Usage is waited for as long as the readings behind it are read', () => {
  const send = jest.fn();
  const usage = new UsageController({ send } as never, undefined as never);
  const licenseId = sampleId('lic') as never;
  void usage.getLicenseUsage(licenseId, { meter: 'cores' } as UsageSeries);
  void usage.explainLicenseUsage(licenseId, { meter: 'cores', day: '2026-03-12' } as ExplainUsage);
  expect(send.mock.calls).toEqual([UsageSeries, ExplainUsage].map((type) => [type, expect.objectContaining({ licenseId }), { timeoutMs: USAGE_READ_WITHIN_MS }]));
});
