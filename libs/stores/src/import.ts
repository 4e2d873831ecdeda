import { controlEnvironment } from '@keyledger/kernel';
import { tablesOf, type Databases } from '@keyledger/read-models';

/** Exists from before the first step of an import until after the last: stores that have it are incomplete, and no process may work with them. */
const TABLE = 'unfinished_import';

/** The digest of the file whose import was started here and never finished. */
export async function unfinishedImport(state: Databases): Promise<string | undefined> {
  const control = state.of(controlEnvironment);
  if (!(await tablesOf(control)).some(({ name }) => name === TABLE)) return undefined;
  const { rows: [row] } = await control.run<{ digest: string }>(`select digest from ${TABLE}`);
  return row?.digest ?? '';
}

export async function beginImport(state: Databases, digest: string): Promise<void> {
  const control = state.of(controlEnvironment);
  await control.transaction(async (sql) => {
    await sql.schema.createTable(TABLE).addColumn('digest', 'text', (column) => column.primaryKey()).execute();
    await sql.insertInto(TABLE).values({ digest }).execute();
  });
}

export async function endImport(state: Databases): Promise<void> {
  await state.of(controlEnvironment).run(`drop table ${TABLE}`);
}

export async function mustBeComplete(state: Databases): Promise<void> {
  if ((await unfinishedImport(state)) !== undefined) throw new Error('An import into these stores was started but not finished. Run it again: keyledger import --from <the same file>');
}
