import { expect, it } from '@jest/globals';
import type { LicenseId } from '@keyledger/kernel';
import { onEveryDialect } from '@keyledger/read-models/contract';
import { usageSchema } from './index.ts';
import { UsageLedger } from './ledger.ts';
import { usageTables } from './usage.tables.ts';

onEveryDialect('Readings of an older release', ({ dialect, open, place }) => {
  it('are read page by page from an index, whether or not the database has counted them since they came', async () => {
    const here = place();
    const before = await open({ kind: 'state', migrations: [usageTables], place: here });
    const many = Array.from({ length: 5_000 }, (_, n) => ['lic', `r${n * 7919}`, 'act', 'm', n, 1, n]);
    await before.batch([{ sql: 'insert into usage_readings (license_id, id, instance_id, meter, at, micros, received_at) values (?, ?, ?, ?, ?, ?, ?)', many }]);
    await before.close();
    const after = await open({ kind: 'state', migrations: usageSchema.state, place: here });
    const asked: [text: string, params: readonly unknown[]][] = [];
    const run = (text: string, params: readonly unknown[]) => (asked.push([text, params]), after.run(text, params));
    const ledger = new UsageLedger({ here: () => ({ listing: (read: (lists: unknown) => unknown) => read({ run }) }) } as never);
    let read = 0;
    for await (const page of ledger.readings('lic' as LicenseId, 'm', 0, 4_500)) read += page.length;
    expect([read, asked.length]).toEqual([4_500, 3]);
    const [text, params] = asked[1] as typeof asked[0];
    const { rows } = await after.run(`explain ${dialect === 'sqlite' ? 'query plan ' : ''}${text}`, params);
    const plan = JSON.stringify(rows);
    expect(plan).toMatch(dialect === 'sqlite' ? /USING INDEX usage_readings_at \(license_id=\? AND meter=\? AND \(at,id\)>\(\?,\?\) AND at<\?\)/ : /Index Scan using usage_readings_in_order.*ROW\(at, id\) >/);
    expect(plan).not.toMatch(/Sort|B-TREE|Filter/);
  });
});
