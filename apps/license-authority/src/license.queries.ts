import { CountAvailable, ExportLicenses, ListActivations, ListLicenseEvents, ListLicenses, SuggestLicenses, TotalLicenses, type LicenseView } from '@keyledger/contracts';
import { instanceView, instantIn, issued, License, licenseStatuses, licenseView, normaliseKey, spellingsOf, type LicenseEvent, type LicenseState } from '@keyledger/domain';
import { decode, EventStores, sealedSubjects, type EventMetadata, type RecordedEvent } from '@keyledger/event-store';
import { context, malformedQuery, refuse, type EventShape, type Instant, type Json, type LicenseId, type ProductId, type Sealer } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { countOf, matches, matching, normalise, page, Projectors, StateDatabases, type Database, type Projection, type Sort } from '@keyledger/read-models';
import { Injectable } from '@nestjs/common';
import { sql, type Expression, type SqlBool } from 'kysely';
import { customerNames, licenseTable, productNames, type RetiredKey } from './license.tables.ts';
import { Licenses } from './streams.ts';
import { Usage } from './usage.handlers.ts';

/** Look-ups by key. */
@Injectable()
export class LicenseTable {
  constructor(private readonly projectors: Projectors, private readonly state: StateDatabases, private readonly keyrings: Keyrings) {}

  async byKeyHash(hash: string): Promise<LicenseId | undefined> {
    const database = await this.projectors.current();
    const { rows: [row] } = await database.run<{ id: LicenseId }>('select id from authority_license where key_hash = ?', [hash]);
    return row?.id;
  }

  /** The condition that a license's key is the typed one, however it is spelled; else that the key contains the typed part, with or without its dashes. Undefined where none does. */
  async hasKey(database: Database, typed = ''): Promise<{ readonly condition?: Expression<SqlBool> | undefined; readonly isCommon: boolean }> {
    const spellings = [typed, ...spellingsOf(typed)];
    const count = await matches(database, licenseTable, spellings, countable);
    const isCommon = count > countable;
    const hasPart = matching(database, licenseTable, spellings, 'id', isCommon);
    if (!hasPart) return { isCommon };
    const { rows: [whole] } = await database.run<{ id: LicenseId }>('select id from authority_license where key_hash = ?', [this.keyrings.here().keyHash(normaliseKey(typed))]);
    return { condition: whole ? sql<SqlBool>`id = ${whole.id}` : count > 0 ? hasPart : undefined, isCommon };
  }

  /**
   * The condition that a license has `q` in its key, as `hasKey` says, in its customer's name or e-mail address, or in its product's name; for a page or a
   * total. What has too many matches is not collected, sorted and counted: the list is read in its order, and each license tested, until the page is full.
   */
  async search(database: Database, q: string | undefined, seesKeys = true): Promise<{ readonly found?: Expression<SqlBool> | undefined; readonly hasMany: boolean }> {
    if (q === undefined || normalise(q) === '') return { hasMany: false };
    const keys = seesKeys ? await this.hasKey(database, q) : { isCommon: false };
    const [products, customers] = [await ofNamed(database, productNames, q, 'product_id'), await ofNamed(database, customerNames, q, 'customer_id')];
    const hasMany = keys.isCommon || products.hasMany || customers.hasMany;
    const places = [keys.condition, products.condition, customers.condition].filter((place) => place !== undefined);
    // So wrapped, SQLite does not collect the matches by the indexes of the columns.
    if (hasMany) return { found: sql<SqlBool>`${anyOf(places)} is true`, hasMany };
    // With an `or` PostgreSQL would test each license.
    const ofEach = () => sql.join(places.map((place) => sql`select id from authority_license where ${place}`), sql` union all `);
    const found = places.length > 1 && database.dialect === 'postgres' ? sql<SqlBool>`id in (${ofEach()})` : anyOf(places);
    return { found: found ?? sql<SqlBool>`1 = 0`, hasMany };
  }

  async wasKey(hash: string): Promise<boolean> {
    const { rows } = await this.state.here().run<RetiredKey>('select key_hash from authority_retired_keys where key_hash = ?', [hash]);
    return rows.length > 0;
  }

  async retireKey(hash: string, licenseId: LicenseId): Promise<void> {
    await this.state.here().run('insert into authority_retired_keys (key_hash, license_id) values (?, ?) on conflict (key_hash) do nothing', [hash, licenseId]);
  }
}

/** The most matches of a search that are collected and counted. Of more, enough are found soon among the rows. */
const countable = 10_000;

/** The condition that a license's product or customer is one of those named so, if there are any. Few names may be those of many licenses. */
async function ofNamed(database: Database, names: Projection, q: string, column: string): Promise<{ readonly condition?: Expression<SqlBool> | undefined; readonly hasMany: boolean }> {
  const count = await matches(database, names, q, countable);
  if (count === 0) return { hasMany: false };
  const condition = matching(database, names, q, column, count > countable);
  return { condition, hasMany: count > countable || await countOf(database, countable, sql`select 1 from authority_license where ${condition}`) > countable };
}

const sorts: Readonly<Record<string, Sort>> = {
  key: { column: 'license_key', kind: 'text' },
  product: { column: 'product_name', kind: 'text', reference: 'product_id' },
  customer: { column: 'customer_name', kind: 'text', reference: 'customer_id' },
  status: { column: 'status_rank', kind: 'integer' },
  activations: { column: 'limit_rank', kind: 'integer' },
  expiresAt: { column: 'expires_at', kind: 'text' },
  createdAt: { column: 'created_at', kind: 'text' },
};

interface Listed {
  id: LicenseId;
  product_name: string | null;
  customer_name: string | null;
  [column: string]: unknown;
}
type Filters = Pick<ListLicenses, 'q' | 'status' | 'productId' | 'planId' | 'customerId' | 'createdAfter' | 'createdBefore' | 'expiresAfter' | 'expiresBefore'>;

/** Matching licenses, as rows to page over. Names are joined in only if sorted by. `found`: the condition for `q`. */
function filtered(database: Database, { status, createdAfter, createdBefore, expiresAfter, expiresBefore, ...references }: Filters, now: Instant, found: Expression<SqlBool> | undefined, sortedBy = '') {
  const names = {
    product: sql`select l.*, n.name as product_name from authority_license l left join authority_product n on n.id = l.product_id`,
    customer: sql`select l.*, n.name as customer_name from authority_license l left join authority_customer n on n.id = l.customer_id`,
  }[sortedBy];
  const rows = database.sql<{ l: Listed }>();
  const conditions: (Expression<SqlBool> | undefined)[] = [
    references.productId && sql`product_id = ${references.productId}`,
    references.planId && sql`plan_id = ${references.planId}`,
    references.customerId && sql`customer_id = ${references.customerId}`,
    createdAfter && sql`created_at > ${instantIn('createdAfter', createdAfter)}`,
    createdBefore && sql`created_at < ${instantIn('createdBefore', createdBefore)}`,
    expiresAfter && sql`expires_at > ${instantIn('expiresAfter', expiresAfter)}`,
    expiresBefore && sql`expires_at < ${instantIn('expiresBefore', expiresBefore)}`,
    status?.length ? anyOf([...new Set(status)].map((one) => hasStatus(one, now))) : undefined,
    found,
  ].map((condition) => condition as Expression<SqlBool> | undefined || undefined);
  const source = names ? sql<Listed>`(${names})`.as('l') : sql<Listed>`authority_license`.as('l');
  return conditions.filter((condition) => condition !== undefined).reduce((query, condition) => query.where(condition), rows.selectFrom(source).select('id'));
}

const anyOf = (conditions: readonly Expression<SqlBool>[]): Expression<SqlBool> | undefined =>
  conditions.length > 0 ? sql<SqlBool>`(${sql.join(conditions, sql` or `)})` : undefined;

/** Time acts at once: a license past its time counts as expired, even if no event says so yet. */
function hasStatus(status: string, now: Instant): Expression<SqlBool> {
  if (status === 'revoked') return sql<SqlBool>`status = 'revoked'`;
  if (status === 'expired') return sql<SqlBool>`(status = 'expired' or (works_until <= ${now} and status <> 'revoked'))`;
  return sql<SqlBool>`(status = ${status} and (works_until is null or works_until > ${now}))`;
}

/** Licenses of lists: the table says which and in what order; their views are folded from the streams, and so as fresh as a single license. */
@Injectable()
export class LicenseViews {
  constructor(private readonly licenses: Licenses, private readonly usage: Usage, private readonly log: Log) {}

  /** Without licenses erased since. `isWhole`: fails if any license cannot be read. */
  async of(rows: readonly { readonly id: LicenseId }[], now: Instant, isWhole = false): Promise<readonly LicenseView[]> {
    const view = (state: LicenseState, revision: number) => (state.existence === 'issued' ? { ...licenseView(state, now), revision } : undefined);
    const ids = rows.map(({ id }) => id);
    const views = isWhole ? await Promise.all(ids.map((id) => this.licenses.load(id, view))) : await this.licenses.loadAll(ids, view, this.log);
    return this.usage.completeAll(views.filter((seen) => seen !== undefined));
  }
}

@Handles(ListLicenses)
export class LicenseList {
  constructor(private readonly views: LicenseViews, private readonly projectors: Projectors, private readonly table: LicenseTable) {}

  async execute({ sort = '-createdAt', limit = 25, cursor, ...filters }: ListLicenses) {
    const { now } = context();
    const { data, page: position } = await this.projectors.listing(async (database) => {
      const { found, hasMany } = await this.table.search(database, filters.q);
      return page(filtered(database, filters, now, found, sort.replace('-', '')), sorts, { sort, limit, cursor, total: !hasMany });
    });
    return { data: await this.views.of(data, now), page: position };
  }
}

/** A piece of an export; a total would be counted anew for each. */
const licensesPerPiece = 100;
/** The gateway waits 30 s for a piece, and does not ask again: an export with a piece refused is cut off in the middle of its file. */
const pieceTurnMs = 25_000;

@Handles(ExportLicenses)
export class LicenseExport {
  constructor(private readonly views: LicenseViews, private readonly projectors: Projectors, private readonly table: LicenseTable) {}

  async execute({ sort = '-createdAt', cursor, ...filters }: ExportLicenses) {
    const { now, actor } = context();
    // A caller who may not see keys must not find them out by filtering or sorting.
    const seesKeys = actor.permissions.includes('license.read');
    const sortedBy = sort.replace('-', '');
    if (sortedBy === 'key' && !seesKeys) throw refuse('PERMISSION_DENIED', 'Sorting by key needs the permission license.read', { permission: 'license.read' });
    const { data, page: { next } } = await this.projectors.listing(async (database) => {
      const { found } = await this.table.search(database, filters.q, seesKeys);
      return page(filtered(database, filters, now, found, sortedBy), sorts, { sort, limit: licensesPerPiece, cursor, total: false });
    }, pieceTurnMs);
    const licenses = await this.views.of(data, now, true);
    const database = await this.projectors.current();
    const [products, customers] = await Promise.all([namesOf(database, 'authority_product', licenses.map(({ productId }) => productId)), namesOf(database, 'authority_customer', licenses.map(({ customerId }) => customerId))]);
    const exported = licenses.map((license) => {
      const customer = customers.get(license.customerId ?? '');
      return { license, productName: products.get(license.productId)?.name ?? null, customerName: customer?.name ?? null, customerEmail: customer?.email ?? null };
    });
    return { data: exported, next: next ?? '', last: next === null };
  }
}

async function namesOf(database: Database, table: 'authority_product' | 'authority_customer', ids: readonly (string | null)[]) {
  const wanted = [...new Set(ids)].filter((id) => id !== null);
  if (wanted.length === 0) return new Map<string, never>();
  const { rows } = await database.run<{ id: string; name: string; email?: string | null }>(`select * from ${table} where id in (${wanted.map(() => '?').join(', ')})`, wanted);
  return new Map(rows.map((row) => [row.id, row]));
}

const suggestions = 10;

@Handles(SuggestLicenses)
export class LicenseSuggestions {
  constructor(private readonly projectors: Projectors, private readonly table: LicenseTable) {}

  async execute({ q }: SuggestLicenses) {
    const find = async (database: Database, where: Expression<SqlBool> | undefined, table: string, column: string) => {
      if (!where) return [];
      const { rows } = await sql<{ id: string; text: string; email?: string | null }>`select *, ${sql.ref(column)} as text from ${sql.table(table)} where ${where} limit ${suggestions}`.execute(database.sql());
      // In a stable order; finding the very first matches would take far longer than finding some.
      return rows.toSorted((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id < b.id ? -1 : 1));
    };
    const named = async (database: Database, names: Projection) => matching(database, names, q, 'id', await matches(database, names, q, countable) > countable);
    const [keys, customers, products] = await this.projectors.listing(async (database) => [
      await find(database, (await this.table.hasKey(database, q)).condition, 'authority_license', 'license_key'),
      await find(database, await named(database, customerNames), 'authority_customer', 'name'),
      await find(database, await named(database, productNames), 'authority_product', 'name'),
    ]);
    const namesakes = Map.groupBy(customers, ({ text }) => text);
    // With the address, which is searched after the name, a search finds the customer that is meant.
    const texts = customers.map(({ text, email }) => (email && (namesakes.get(text)?.length ?? 0) > 1 ? `${text} ${email}` : text));
    return {
      data: [
        ...keys.map(({ id, text }) => ({ kind: 'key' as const, text, licenseId: id as LicenseId })),
        ...[...new Set(texts)].sort().map((text) => ({ kind: 'customer' as const, text })),
        ...[...new Set(products.map(({ text }) => text))].map((text) => ({ kind: 'product' as const, text })),
      ].slice(0, suggestions),
    };
  }
}

@Handles(TotalLicenses)
export class LicenseTotals {
  constructor(private readonly projectors: Projectors, private readonly table: LicenseTable) {}

  async execute(filters: TotalLicenses) {
    const { now } = context();
    const status = sql<string>`case when works_until <= ${now} and status <> 'revoked' then 'expired' else status end`;
    const rows = await this.projectors.listing(async (database) => filtered(database, filters, now, (await this.table.search(database, filters.q)).found).clearSelect()
      .select([status.as('status_now'), sql<number>`count(*)`.as('n'), sql<number>`sum(case when activation_limit > 0 then activation_limit else 0 end)`.as('limits'),
        sql<number>`sum(case when activation_limit > 0 then 1 else 0 end)`.as('limited')])
      .groupBy('status_now').execute());
    const sum = (pick: (row: (typeof rows)[number]) => number) => rows.reduce((total, row) => total + Number(pick(row)), 0);
    const [licenses, limits, limited] = [sum(({ n }) => n), sum((row) => row.limits), sum((row) => row.limited)];
    const counts = new Map(rows.map((row) => [row.status_now, Number(row.n)]));
    return {
      licenses,
      byStatus: Object.fromEntries(licenseStatuses.map((name) => [name, counts.get(name) ?? 0])),
      averageLimit: limited > 0 ? limits / limited : null,
      maximumActivations: limited === licenses ? limits : null,
    };
  }
}

/** The catalog waits no longer for the whole count. */
const countTurnMs = 1_000;

@Handles(CountAvailable)
export class AvailableLicenses {
  constructor(private readonly projectors: Projectors) {}

  async execute({ productIds }: CountAvailable) {
    const wanted = productIds.map(() => '?').join(', ');
    const { rows } = await this.projectors.listing((database) => database.run<{ productId: ProductId; available: number }>(
      `select product_id as "productId", count(*) as available from authority_license
        where product_id in (${wanted}) and status = 'available' and (works_until is null or works_until > ?) group by product_id`, [...productIds, context().now]), countTurnMs);
    const counts = new Map(rows.map((row) => [row.productId, Number(row.available)]));
    return { data: productIds.map((productId) => ({ productId, available: counts.get(productId) ?? 0 })) };
  }
}

@Handles(ListActivations)
export class ActivationList {
  constructor(private readonly licenses: Licenses) {}

  async execute({ licenseId, include, limit = 25, cursor }: ListActivations) {
    // In the order of the log: ids of one millisecond say nothing about which came first.
    const newestFirst = await this.licenses.load(licenseId, (state) => [...issued(state).activations.values()].reverse().map(instanceView));
    const after = cursor === undefined ? undefined : placeOf(cursor, (place) => newestFirst.some(({ id }) => id === place));
    const isShown = ({ endedAt }: { endedAt: Instant | null }) => include === 'ended' || endedAt === null;
    const rest = newestFirst.slice(newestFirst.findIndex(({ id }) => id === after) + 1).filter(isShown);
    const data = rest.slice(0, limit).map((instance) => ({ ...instance, lastSeenAt: instance.createdAt }));
    const more = rest.length > limit;
    return { data, page: { next: more ? cursorOf(String(data.at(-1)?.id)) : null, total: newestFirst.filter(isShown).length } };
  }
}

/** Cursors of lists that are not tables. */
const cursorOf = (place: string): string => Buffer.from(place).toString('base64url');

function placeOf(cursor: string, isOne: (place: string) => boolean): string {
  const place = Buffer.from(cursor, 'base64url').toString();
  if (isOne(place)) return place;
  throw malformedQuery('cursor', 'is not from a page of this list');
}

/** Sealed, but shown: what was permitted. All else that is sealed is hidden, and all of a key but the part lists show. */
const permitted: readonly string[] = ['featureFlags', 'serialNumber', 'deploymentId'];

@Handles(ListLicenseEvents)
export class LicenseEvents {
  constructor(private readonly licenses: Licenses, private readonly events: EventStores, private readonly keyrings: Keyrings) {}

  async execute({ licenseId, limit = 25, cursor }: ListLicenseEvents) {
    const { revision } = await this.licenses.load(licenseId, (state, at) => ({ revision: at, license: issued(state).id }));
    const from = cursor === undefined ? 0 : Number(placeOf(cursor, (place) => /^\d{1,15}$/.test(place)));
    const recorded = await this.events.here().readStream(`license-${licenseId}`, { from, limit });
    const next = from + recorded.length;
    const sealer = await this.keyrings.here().prepare(sealedSubjects(recorded));
    return { data: recorded.map((event) => timelineOf(event, sealer)), page: { next: next <= revision ? cursorOf(String(next)) : null, total: revision + 1 } };
  }
}

function timelineOf(event: RecordedEvent, sealer: Sealer) {
  const { type, ...fields } = decode<LicenseEvent>(License.shapes, event, sealer);
  const { sealed = [] }: EventShape = License.shapes[type];
  const { occurredAt: at, actor, correlationId } = event.metadata as unknown as EventMetadata;
  const isShown = (name: string, value: unknown) => value !== undefined && name !== 'keyHash' && (permitted.includes(name) ? value !== null : !sealed.includes(name));
  const data = Object.fromEntries(Object.entries(fields).filter(([name, value]) => isShown(name, value))) as Record<string, Json>;
  return { revision: event.revision, type, at, recordedAt: event.recordedAt, actor, correlationId, data };
}

