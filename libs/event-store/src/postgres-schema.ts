/** Raise it, with a step below, when releases of the version before can no longer write to the log, such as after a change of a function's parameters. */
const SCHEMA_VERSION = 2;
type Run = (text: string) => Promise<readonly (readonly unknown[])[]>;

/** Creates the log's tables where they are missing, and its functions as of this release. */
export async function prepareLog(run: Run, schema: string): Promise<void> {
  await run(`create schema if not exists "${schema}"`);
  await run(`create table if not exists "${schema}".schema_version (version integer not null)`);
  const [[version] = [0]] = await run(`select version from "${schema}".schema_version`);
  if (Number(version) > SCHEMA_VERSION) throw new Error(`${schema} has schema version ${String(version)}; this release knows ${SCHEMA_VERSION}`);
  if (version === 0) await run(tables(schema));
  if (version === 1) await run(`drop function if exists "${schema}".append(text[], integer[], integer[], uuid[], text[], text[], text[])`);
  await run(functions(schema));
  if (version !== SCHEMA_VERSION) await run(`delete from "${schema}".schema_version; insert into "${schema}".schema_version (version) values (${SCHEMA_VERSION})`);
}

/** A server that may lose confirmed writes must not hold a log, nor the keys to one. */
export async function mustBeDurable(run: Run): Promise<void> {
  const [settings = []] = await run("select current_setting('fsync'), current_setting('full_page_writes')");
  if (settings.some((setting) => setting !== 'on')) {
    throw new Error(`This PostgreSQL runs with fsync=${String(settings[0])} and full_page_writes=${String(settings[1])}: it would lose what it has confirmed when the machine fails. Both must be on`);
  }
}

/**
 * Events are json as it was written (text keeps every byte); names of streams sort by their bytes.
 *
 * The one row of `head` is the counter of positions, locked by each writer from before it looks until it has committed. So positions are
 * dense, their order is that of the commits, and a reader that sees one sees all before it.
 */
const tables = (schema: string): string => `
  set local search_path to "${schema}";
  create table events (
    position bigint primary key, stream text collate "C" not null, revision integer not null, id uuid not null,
    type text not null, data text not null, metadata text not null, recorded_at text not null,
    unique (stream, revision), unique (stream, id)
  );
  create table head (single boolean primary key default true check (single), position bigint not null) with (fillfactor = 10);
  insert into head (position) values (0);

  create function refuse_change() returns trigger language plpgsql as $$
  begin
    raise exception 'events are never %', case tg_op when 'UPDATE' then 'changed' else 'deleted' end;
  end $$;
  create trigger events_are_never_changed before update or delete or truncate on events for each statement execute function refuse_change();`;

/** Replaced at every start, so that changes in them reach existing logs. */
const functions = (schema: string): string => `
  set local search_path to "${schema}";

  -- Several appends, each all or nothing: its stream, its expected revision (null where that does not matter) and how many of the events are its own.
  -- A row for each: as the embedded store's outcomes. Its plans are kept, and may be made when the tables are empty: they must not be scans.
  -- By itself PostgreSQL takes a plan for one event to be so much cheaper than one for any number that it makes one each time.
  -- Who listens is told only when asked for.
  create or replace function append(streams text[], expected integer[], counts integer[], ids uuid[], types text[], datas text[], metadatas text[], tell boolean)
  returns table (outcome text, last_revision integer, last_position bigint, at text)
  language plpgsql set search_path to "${schema}" set enable_seqscan to off set jit to off set plan_cache_mode to force_generic_plan as $$
  declare
    log_end bigint;
    log_end_before bigint;
    before integer := 0;
    stored record;
  begin
    if current_setting('synchronous_commit') in ('off', 'local') then
      perform set_config('synchronous_commit', 'on', true);
    end if;
    select head.position into strict log_end from head where single for update;
    log_end_before := log_end;
    at := to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
    for n in 1 .. cardinality(streams) loop
      last_revision := coalesce((select e.revision from events e where e.stream = streams[n] order by e.revision desc limit 1), -1);
      last_position := 0;
      outcome := 'appended';
      if last_revision >= 0 then
        select * into stored from (
          select i as place, (select e.revision from events e where e.stream = streams[n] and e.id = ids[before + i]) as revision from generate_series(1, counts[n]) i
        ) own where revision is not null order by place limit 1;
        if found then
          outcome := 'duplicate';
          last_revision := least(stored.revision + counts[n] - stored.place, last_revision);
          last_position := (select e.position from events e where e.stream = streams[n] and e.revision = last_revision);
        end if;
      end if;
      if outcome = 'appended' and expected[n] <> last_revision then
        outcome := 'conflict';
      end if;
      if outcome = 'appended' then
        insert into events (position, stream, revision, id, type, data, metadata, recorded_at)
          select log_end + i, streams[n], last_revision + i, ids[before + i], types[before + i], datas[before + i], metadatas[before + i], at
          from generate_series(1, counts[n]) i;
        log_end := log_end + counts[n];
        last_revision := last_revision + counts[n];
        last_position := log_end;
      end if;
      before := before + counts[n];
      return next;
    end loop;
    if log_end > log_end_before then
      update head set position = log_end where single;
      if tell then
        perform pg_notify('${schema}', log_end::text);
      end if;
    end if;
  end $$;

  -- Events as another log has recorded them, in its order.
  create or replace function restore(positions bigint[], streams text[], revisions integer[], ids uuid[], types text[], datas text[], metadatas text[], times text[])
  returns void language plpgsql set search_path to "${schema}" as $$
  declare
    log_end bigint;
    wrong record;
  begin
    select head.position into strict log_end from head where single for update;
    select r.stream, r.position, r.revision into wrong from (
      select *, lag(a.position, 1, log_end) over (order by n) as position_before,
        coalesce(lag(a.revision) over (partition by stream order by n), (select e.revision from events e where e.stream = a.stream order by e.revision desc limit 1), -1) as revision_before
      from unnest(positions, streams, revisions) with ordinality a (position, stream, revision, n)
    ) r where r.position <= r.position_before or r.revision <> r.revision_before + 1 limit 1;
    if found then
      raise exception '%: revision % at position % is not what comes next', wrong.stream, wrong.revision, wrong.position using errcode = 'data_exception';
    end if;
    insert into events (position, stream, revision, id, type, data, metadata, recorded_at)
      select * from unnest(positions, streams, revisions, ids, types, datas, metadatas, times);
    update head set position = positions[cardinality(positions)] where single;
    perform pg_notify('${schema}', positions[cardinality(positions)]::text);
  end $$;`;
