import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { originOf, SqliteEventStore, type EventStore, type Handler, type NewEvent, type RecordedEvent } from '@keyledger/event-store';
import { addSeconds, type EventOrigin, type JsonObject, type Sealing } from '@keyledger/kernel';
import { defineEntity, p, type InferEntity } from '@mikro-orm/sql';
import type { Database } from './database.ts';
import { projection, rowsOf, type Projection } from './projection.ts';

/** A stream kind for the specs of this library: parcels that are sent to a person, moved, and perhaps erased. */
export type ParcelEvent =
  | { readonly type: 'ParcelSent'; readonly to: string | null }
  | { readonly type: 'ParcelMoved'; readonly place: string }
  | { readonly type: 'ParcelErased' };
interface ParcelState {
  readonly to: string | null;
  readonly places: readonly string[];
  readonly erased: boolean;
}

export const Parcel = {
  category: 'parcel',
  shapes: { ParcelSent: { schema: 1, sealed: ['to'] }, ParcelMoved: { schema: 1 }, ParcelErased: { schema: 1 } },
  initial: (): ParcelState => ({ to: null, places: [], erased: false }),
  evolve(parcel: ParcelState, event: ParcelEvent): ParcelState {
    switch (event.type) {
      case 'ParcelSent': return { ...parcel, to: event.to };
      case 'ParcelMoved': return { ...parcel, places: [...parcel.places, event.place] };
      case 'ParcelErased': return { to: null, places: [], erased: true };
    }
  },
};

export const ParcelRow = defineEntity({
  name: 'ParcelRow', tableName: 'test_parcels', indexes: [{ properties: ['place', 'id'] }, { properties: ['moves', 'id'] }],
  properties: {
    id: p.string().primary(), revision: p.integer(), to: p.string().nullable(), place: p.string().nullable(), moves: p.integer(),
    isMoved: p.boolean(), places: p.json<readonly string[]>(), at: p.string(),
  },
});
export type ParcelRow = InferEntity<typeof ParcelRow>;

type Row = (parcel: ParcelState, where: { id: string; revision: number; at: string }) => ParcelRow | null;
const parcelRow: Row = ({ to, places, erased }, where) =>
  (erased ? null : { ...where, to, place: places.at(-1) ?? null, moves: places.length, isMoved: places.length > 0, places });

export const parcels = (changes: { readonly version?: number; readonly row?: Row; readonly entity?: typeof ParcelRow } = {}): Projection<ParcelRow> => projection({
  name: 'parcels', version: 1, source: Parcel, entity: ParcelRow, row: parcelRow, search: ({ to, places }: ParcelRow) => [to, ...places].join(' '), ...changes,
});

export const sent = (to: string): ParcelEvent => ({ type: 'ParcelSent', to });
export const moved = (place: string): ParcelEvent => ({ type: 'ParcelMoved', place });
export const erased: ParcelEvent = { type: 'ParcelErased' };

/** Seals with only a name, so that a spec can destroy keys and read stored data. */
export class TestSealing implements Sealing {
  readonly destroyed = new Set<string>();

  prepare() {
    return {
      seal: (subject: string, value: JsonObject) => Buffer.from(JSON.stringify([subject, value])).toString('hex'),
      open: (subject: string, sealed: string) => {
        const [owner, value] = JSON.parse(Buffer.from(sealed, 'hex').toString()) as [string, JsonObject];
        if (owner !== subject) throw new Error(`Sealed for ${owner}, not for ${subject}`);
        return this.destroyed.has(subject) ? null : value;
      },
    };
  }
}

const T0 = '2026-11-21T01:00:00.000Z';

/** A log of parcels in a folder of its own. */
export class ParcelLog<Store extends EventStore = SqliteEventStore> {
  readonly store: Store;
  readonly sealing = new TestSealing();
  readonly #directory: string | undefined;
  #decided = 0;

  static async open(directory?: string): Promise<ParcelLog> {
    const own = directory ?? mkdtempSync(join(tmpdir(), 'keyledger-'));
    return new ParcelLog(await SqliteEventStore.open(join(own, 'events.db'), { handlerFailed: () => undefined }), directory ? undefined : own);
  }

  constructor(store: Store, directory?: string) {
    this.store = store;
    this.#directory = directory;
  }

  /** Appends to the end of the parcel's stream; answers with the position. */
  async write(id: string, ...events: readonly ParcelEvent[]): Promise<number> {
    const { position } = await this.store.append(`parcel-${id}`, 'any', events.map(({ type, ...fields }) => {
      const { to, ...open } = fields as { to?: string };
      return this.#event(type, to === undefined ? open : { ...open, sealed: this.sealing.prepare().seal(id, { to }) });
    }));
    return position;
  }

  /** An event that this release cannot read. */
  async writeUnreadable(id: string, type = 'ParcelTeleported'): Promise<number> {
    return (await this.store.append(`parcel-${id}`, 'any', [this.#event(type, {})])).position;
  }

  async writeOther(): Promise<number> {
    return (await this.store.append(`other-${randomUUID()}`, 'any', [this.#event('Other', {})])).position;
  }

  /** The rows as they must be: fold(events), stream by stream, without the code under test. */
  async expected(row: Row = parcelRow): Promise<ParcelRow[]> {
    const streams = new Map<string, { state: ParcelState; revision: number; origin: EventOrigin }>();
    for (let after = 0, page = await this.store.readAll(0); page.length > 0; page = await this.store.readAll(after)) {
      for (const event of page) {
        after = event.position;
        if (!event.stream.startsWith('parcel-')) continue;
        const id = event.stream.slice('parcel-'.length);
        const { sealed, ...data } = event.data;
        const secret = sealed === undefined ? {} : this.sealing.prepare().open(id, String(sealed)) ?? { to: null };
        const before = streams.get(id)?.state ?? Parcel.initial();
        streams.set(id, { state: Parcel.evolve(before, { ...data, ...secret, type: event.type } as ParcelEvent), revision: event.revision, origin: originOf(event) });
      }
    }
    const rows = [...streams].map(([id, { state, revision, origin }]) => row(state, { id, revision, at: origin.at }));
    return rows.filter((one) => one !== null).sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  async close(): Promise<void> {
    await this.store.close();
    if (this.#directory) rmSync(this.#directory, { recursive: true });
  }

  #event(type: string, data: JsonObject): NewEvent {
    const occurredAt = addSeconds(T0, this.#decided++);
    return { id: randomUUID(), type, data, metadata: { occurredAt, actor: { type: 'system', id: 'spec' }, schema: 1, commandId: '', correlationId: '', environment: 'test' } };
  }
}

/** The rows as queries see them, ordered by id. */
export const rowsIn = (database: Database, of: Projection<ParcelRow> = parcels()): Promise<ParcelRow[]> =>
  rowsOf(database, of).orderBy('id').execute() as Promise<ParcelRow[]>;

/** For batches handed over by a test, each of them all that there was. */
export const handing = (handler: Handler) => async (events: readonly RecordedEvent[]): Promise<void> => handler(events, events.at(-1)?.position ?? 0, events.length);

/** The store, with changed deliveries to subscribers. */
export const deliver = (store: EventStore, change: (events: Parameters<Parameters<EventStore['subscribe']>[1]>[0]) => typeof events): EventStore => ({
  append: (...all) => store.append(...all),
  readStream: (...all) => store.readStream(...all),
  readAll: (...all) => store.readAll(...all),
  subscribe: (after, handler) => store.subscribe(after, (events) => handing(handler)(change(events))),
  head: () => store.head(),
  close: () => store.close(),
});
