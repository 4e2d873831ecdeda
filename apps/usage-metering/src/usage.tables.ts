import type { Migration } from '@keyledger/read-models';

/**
 * Readings are observed, not decided, so they are rows: each reading, kept for good under the id the instance gave it, and each day of a meter
 * with its totals. Times are milliseconds since 1970, values millionths. `due_at` is when the day is to be compared with the quota, and null
 * once that is done; `version` counts the batches that have changed it.
 */
export const usageTables: Migration = {
  name: 'usage-1-readings',
  async up({ dialect, run }) {
    await run(`create table usage_readings (
      license_id text not null, id text not null, instance_id text not null, meter text not null, at bigint not null, micros double precision not null, received_at bigint not null,
      primary key (license_id, id)
    )${dialect === 'sqlite' ? ' without rowid' : ''}`);
    await run('create index usage_readings_at on usage_readings (license_id, meter, at)');
    await run(`create table usage_days (
      license_id text not null, meter text not null, day text not null, micros double precision not null, peak_micros double precision, peak_at bigint, due_at bigint, version bigint not null,
      primary key (license_id, meter, day)
    )${dialect === 'sqlite' ? ' without rowid' : ''}`);
    await run('create index usage_days_due_at on usage_days (due_at, license_id) where due_at is not null');
  },
};

/** SQLite's index ends with the whole primary key by itself. PostgreSQL would sort all readings of a day for each page, unless it has just counted them. */
export const readingsInOrder: Migration = {
  name: 'usage-2-in-order',
  async up({ dialect, run }) {
    if (dialect === 'sqlite') return;
    await run('create index usage_readings_in_order on usage_readings (license_id, meter, at, id)');
    await run('drop index usage_readings_at');
  },
};
