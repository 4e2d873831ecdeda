import { describe, expect, it } from '@jest/globals';
import { issued, License, licenseView, type TermsInput } from '@keyledger/domain';
import { refuse, type LicenseId } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import { idOf, issue, scenarios } from '@keyledger/testing';
import { Usage } from './usage.handlers.ts';

const now = '2026-03-12T12:00:00.000Z';
const { story, stateOf } = scenarios(License, now);
const view = (n: number, terms: TermsInput) => licenseView(issued(stateOf(story(issue({ licenseId: idOf('lic', n), terms })))), now);
const plain = view(1, { features: { export: true } });
const capped = view(2, { features: { calls: { limit: 100, per: 'day' } } });
const meters = { calls: { today: 40, month: 60, last: { gauge: null, day: 0, month: 0 } } };

/** The metering answers like this, and what it was asked about. */
function answering(answer: () => Promise<unknown>) {
  const asked: { licenseIds: readonly LicenseId[]; meters: readonly string[] }[] = [];
  return { asked, usage: new Usage({ send: (_type: unknown, fields: (typeof asked)[number]) => (asked.push(fields), answer()) } as unknown as MessageClient) };
}

describe('A view of a license', () => {
  it('says what is left of its caps, and one question is enough for all views', async () => {
    const { usage, asked } = answering(async () => ({ [capped.id]: meters }));
    const unused = view(3, { features: { calls: { limit: 5, per: 'month' } } });
    expect((await usage.completeAll([plain, capped, unused])).map(({ features }) => features)).toEqual([
      { export: true }, { calls: { limit: 100, per: 'day', used: 40, remaining: 60 } }, { calls: { limit: 5, per: 'month', used: 0, remaining: 5 } },
    ]);
    expect(asked).toEqual([{ licenseIds: [capped.id, unused.id], meters: ['calls'] }]);
  });
  it('asks nobody when there is nothing to say', async () => {
    const { usage, asked } = answering(async () => ({}));
    expect([await usage.complete(plain), asked]).toEqual([plain, []]);
  });
  it('says nothing of use while the metering cannot be asked, and does not hide that it is broken', async () => {
    expect((await answering(() => Promise.reject(refuse('UNAVAILABLE'))).usage.complete(capped)).features).toEqual({ calls: { limit: 100, per: 'day' } });
    await expect(answering(() => Promise.reject(refuse('INTERNAL'))).usage.complete(capped)).rejects.toMatchObject({ code: 'INTERNAL' });
  });
});
