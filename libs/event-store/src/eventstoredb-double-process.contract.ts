import { EventStoreDbDouble } from './eventstoredb-double.contract.ts';

/** The double as a process of its own. It carries out its parent's orders, reports each, and ends with it. */
export type Order = 'kill' | 'restart' | 'hang' | 'resume';
/** First its URL, then each order that was carried out. */
export type Report = { readonly url: string } | { readonly done: Order };

const tell = (report: Report): void => void process.send?.(report);
// The lag exposes code that relies on timely events instead of asking.
const double = await EventStoreDbDouble.start({ lag: 80 });
process.on('message', async (order: Order) => {
  await double[order]();
  tell({ done: order });
});
process.on('disconnect', () => process.exit());
tell({ url: double.url });
