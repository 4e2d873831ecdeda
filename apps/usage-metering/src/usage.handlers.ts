import { RecordUsage, ReportUsage, type UsageRecord, type UsageRecorded } from '@keyledger/contracts';
import { clientLicenseView, microsOf, timesOf, withUse, type IssuedLicense } from '@keyledger/domain';
import { context, isId, refuse, type ActivationId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { UsageLedger } from './ledger.ts';
import { Licenses } from './licenses.ts';
import { Meters } from './usage.queries.ts';

/** Takes what instances have read, whatever state the license is in: what was used was used. */
@Handles(ReportUsage, RecordUsage)
export class UsageCommands {
  constructor(private readonly licenses: Licenses, private readonly ledger: UsageLedger, private readonly meters: Meters, private readonly metrics: Metrics) {}

  async execute(command: ReportUsage | RecordUsage): Promise<UsageRecorded> {
    const { instanceId, records } = command;
    const { now } = context();
    const times = timesOf(records, now);
    const admit = (license: IssuedLicense) => ({ licenseId: license.id, activationId: seatAt(license, instanceId, times), quotas: clientLicenseView(license, now).quotas });
    const { licenseId, activationId, quotas } = command instanceof ReportUsage
      ? await this.licenses.loadByKey(command.licenseKey, admit) : await this.licenses.load(command.licenseId, admit);
    const receivedAt = Date.parse(now);
    const accepted = await this.ledger.record(records.map(({ id, meter, value }: UsageRecord, n) => ({
      licenseId, instanceId: activationId, id: id.toWellFormed(), meter: meter.toWellFormed(), at: times[n] as number, micros: microsOf(value), receivedAt,
    })));
    const duplicates = records.length - accepted;
    this.metrics.usage(accepted, duplicates);
    const use = quotas.length > 0 ? (await this.meters.of([licenseId]))[licenseId] : undefined;
    return { accepted, duplicates, quotas: withUse({ features: {}, quotas }, use ?? {}).quotas };
  }
}

/** An instance may still report what it read while it had its seat. */
function seatAt({ activations }: IssuedLicense, instanceId: string, times: readonly number[]): ActivationId {
  const activation = isId('act', instanceId) ? activations.get(instanceId) : undefined;
  if (!activation) throw refuse('INSTANCE_NOT_FOUND');
  const { id, endedAt } = activation;
  if (endedAt !== null && times.some((at) => at >= Date.parse(endedAt))) throw refuse('INSTANCE_NOT_FOUND', `The instance has given up its seat at ${endedAt}`);
  return id;
}
