import { expect, it } from '@jest/globals';
import { JobView } from '@keyledger/contracts';
import { gatewayWithFakes, refusing, sampleId, sampleOf } from './fakes.contract.ts';

const result = `/jobs/${sampleId('job')}/result`;
const asCsv = { headers: { accept: 'text/csv' } };
const batch = () => ({ ...(sampleOf(JobView) as object), kind: 'batch' });
const page = { data: [{ row: 1, outcome: 'issued', code: null, detail: null, licenseId: sampleId('lic'), customerId: null, key: 'KEY-1' }], last: true };

it('The keys of a batch are taken once they can be delivered', async () => {
  const gateway = await gatewayWithFakes({ 'job.get': batch, 'job.result': refusing('UNAVAILABLE') });
  const asked = () => gateway.sent.map(({ subject }) => subject).filter((subject) => subject.startsWith('job.'));
  try {
    expect((await gateway.call('GET', result, asCsv)).status).toBe(503);
    expect(asked()).not.toContain('job.take-keys');
    gateway.fakes['job.result'] = () => page;
    expect((await gateway.call('GET', result, asCsv)).text).toContain('KEY-1');
    expect(asked().slice(-2)).toEqual(['job.result', 'job.take-keys']);
    gateway.fakes['job.take-keys'] = refusing('KEYS_ALREADY_DOWNLOADED');
    expect(await gateway.call('GET', result, asCsv)).toMatchObject({ status: 410, text: expect.not.stringContaining('KEY-1') });
  } finally {
    await gateway.close();
  }
});

it('A file is whole though one of its pages could not be read at first; the keys of a batch would not be delivered again', async () => {
  const keys = Array.from({ length: 3 }, (_, n) => `KEY-${n + 1}`);
  let failures = 2;
  const pageAfter = ({ after }: { readonly after: number }) => {
    if (after === 1 && failures-- > 0) return refusing('UNAVAILABLE')();
    return { data: page.data.map((row) => ({ ...row, row: after + 1, key: keys[after] })), last: after === 2 };
  };
  const gateway = await gatewayWithFakes({ 'job.get': batch, 'job.take-keys': () => null, 'job.result': pageAfter as never });
  try {
    const { status, text } = await gateway.call('GET', result, asCsv);
    expect([status, text.match(/KEY-\d/g), failures]).toEqual([200, keys, -1]);
  } finally {
    await gateway.close();
  }
});

it.each([
  ['text/csv', true], ['text/csv, application/json', true], ['application/json, text/csv', false], ['text/csv;q=0, application/json', false], ['text/csv; q=0', false], ['application/json;q=0.5, Text/CSV', true],
  ['text/csv;q=0.5,application/json;charset=utf-8;q=0.501', false], ['text/csv;header=present;q=0.8, application/json;q=0.8', true], ['application/json;q=0, text/csv;q=0.1', true], ['text/csvx', false], ['*/*', false],
])('For %j it is CSV: %s, and only that spends the keys', async (accept, isCsv) => {
  const gateway = await gatewayWithFakes({ 'job.get': batch, 'job.result': () => page });
  try {
    const { headers } = await gateway.call('GET', result, { headers: { accept } });
    expect({ type: headers['content-type'], spent: gateway.sent.some(({ subject }) => subject === 'job.take-keys') }).toEqual({ type: expect.stringMatching(isCsv ? /^text\/csv/ : /^application\/json/), spent: isCsv });
  } finally {
    await gateway.close();
  }
});
