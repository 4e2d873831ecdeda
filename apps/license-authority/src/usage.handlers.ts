import { Injectable } from '@nestjs/common';
import { ExceedQuota, ReadMeters, RestoreQuota, type MeterReadings } from '@keyledger/contracts';
import { isMetered, metersNamed, withUse } from '@keyledger/domain';
import { isTransient, type LicenseId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Licenses } from './streams.ts';

/** The metering compares; the license decides what follows. */
@Handles(ExceedQuota, RestoreQuota)
export class QuotaCommands {
  constructor(private readonly licenses: Licenses) {}

  execute(command: ExceedQuota | RestoreQuota) {
    return this.licenses.run(command.licenseId, command, (_state, _revision, events) => ({ events: events.map(({ type }) => type) }));
  }
}

type Metered = Parameters<typeof withUse>[0] & { readonly id: LicenseId };
/** No view waits longer for the usage of a license: it then omits the usage. */
const askMs = 1_000;

/** Completes license views with what the metering knows: what is left of a cap, and the value a quota was last compared with. */
@Injectable()
export class Usage {
  constructor(private readonly messages: MessageClient) {}

  async complete<V extends Metered>(view: V): Promise<V> {
    const [completed = view] = await this.completeAll([view]);
    return completed;
  }

  async completeAll<V extends Metered>(views: readonly V[]): Promise<readonly V[]> {
    const metered = views.filter(isMetered);
    const meters = metered.length > 0 ? await this.#read(metered) : undefined;
    return meters ? views.map((view) => (isMetered(view) ? withUse(view, meters[view.id] ?? {}) : view)) : views;
  }

  async #read(views: readonly Metered[]): Promise<MeterReadings | undefined> {
    const asked = { licenseIds: views.map(({ id }) => id), meters: [...new Set(views.flatMap(metersNamed))] };
    try {
      return await this.messages.send(ReadMeters, asked, { timeoutMs: askMs });
    } catch (error) {
      if (isTransient(error)) return undefined;
      throw error;
    }
  }
}
