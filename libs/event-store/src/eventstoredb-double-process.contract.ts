import { EventStoreDbDouble } from './eventstoredb-double.contract.ts';

/** The double as a process of its own. It does what its parent says, says when it has, and ends with it. */
export type Order = 'kill' | 'restart' | 'hang' | 'resume';
/** Its URL to begin with, then each order that was carried out. */
export type Report = { readonly url: string } | { readonly done: Order };

const tell = (report: Report): void => void process.send?.(report);
// Who relied on being told in time, and did not ask, would be found out.
const double = await EventStoreDbDouble.start({ lag: 80 });
process.on('message', async (order: Order) => {
  await double[order]();
  tell({ done: order });
});
process.on('disconnect', () => process.exit());
tell({ url: double.url });
