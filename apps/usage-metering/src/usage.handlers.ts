import { RecordUsage, ReportUsage, type UsageRecord, type UsageRecorded, type UsageTaken } from '@keyledger/contracts';
import { clientLicenseView, counts, microsOf, mustBeInReach, timeOf, withUse, type Activation, type IssuedLicense } from '@keyledger/domain';
import { context, isId, refuse, type Instant, type LicenseId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { UsageLedger } from './ledger.ts';
import { Licenses } from './licenses.ts';
import { Meters } from './usage.queries.ts';

/** Accepts readings of instances, whatever state the license is in: usage is a fact. */
@Handles(ReportUsage, RecordUsage)
export class UsageCommands {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters, private readonly metrics: Metrics) {}

  /** A batch counts as a whole or not at all; of a heartbeat's records, all that can: an appliance must get its answer whatever it reports. */
  async execute(command: ReportUsage | RecordUsage): Promise<UsageRecorded | UsageTaken> {
    const { instanceId, records } = command;
    const { now } = context();
    const seat = (license: IssuedLicense) => ({ ...seatOf(license, instanceId), licenseId: license.id, quotas: clientLicenseView(license, now).quotas });
    if (command instanceof RecordUsage) {
      const found = await this.licenses.load(command.licenseId, seat);
      const [taken, refused] = [true, false].map((is) => records.filter((record) => counts(timeOf(record), found.endedAt, now) === is)) as [UsageRecord[], UsageRecord[]];
      return { ...(await this.#count(found, taken)), refused: refused.map(({ id }) => id) };
    }
    mustBeInReach(records, now);
    const found = await this.licenses.loadByKey(command.licenseKey, seat);
    mustBeOfSeat(records, found, now);
    return this.#count(found, records);
  }

  async #count({ id: instanceId, licenseId, quotas }: ReturnType<typeof seatOf> & { readonly licenseId: LicenseId; readonly quotas: UsageRecorded['quotas'] }, records: readonly UsageRecord[]): Promise<UsageRecorded> {
    const receivedAt = Date.parse(context().now);
    const accepted = records.length === 0 ? 0 : await this.ledger.record(records.map((record) => ({
      licenseId, instanceId, id: record.id.toWellFormed(), meter: record.meter.toWellFormed(), at: timeOf(record), micros: microsOf(record.value), receivedAt,
    })));
    const duplicates = records.length - accepted;
    this.metrics.usage(accepted, duplicates);
    const use = quotas.length > 0 ? (await this.meters.of([licenseId], quotas.map(({ meter }) => meter)))[licenseId] : undefined;
    return { accepted, duplicates, quotas: withUse({ features: {}, quotas }, use ?? {}).quotas };
  }
}

/** Refuses with the records from after the end of the seat, so that the client can send the others alone. */
function mustBeOfSeat(records: readonly UsageRecord[], { endedAt }: Pick<Activation, 'endedAt'>, now: Instant): void {
  const errors = records.flatMap((record, n) => (counts(timeOf(record), endedAt, now) ? [] : [{ pointer: `/records/${n}/at`, detail: 'is not before the end of the seat' }]));
  if (errors.length > 0) throw refuse('INSTANCE_NOT_FOUND', `The instance gave up its seat at ${endedAt}`, { errors });
}

function seatOf({ activations }: IssuedLicense, instanceId: string): Pick<Activation, 'id' | 'endedAt'> {
  const activation = isId('act', instanceId) ? activations.get(instanceId) : undefined;
  if (!activation) throw refuse('INSTANCE_NOT_FOUND');
  const { id, endedAt } = activation;
  return { id, endedAt };
}
