import { Injectable } from '@nestjs/common';
import { License } from '@keyledger/domain';
import { EventStores, subjectOf } from '@keyledger/event-store';
import { Clock, type LicenseId } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Projectors, Reaction, ReadDatabases, StateDatabases } from '@keyledger/read-models';
import { licenseTable } from './license.tables.ts';
import { Licenses } from './streams.ts';

/** Writing a file anew takes seconds per gigabyte, twice if another erasure has just begun. A little less than the gateway waits. */
const ERASED_WITHIN_MS = 58_000;

/**
 * After an erasure the license's data key is destroyed, and nothing it had sealed stays readable in any file.
 * It is a reaction to the event, so that it happens even if the process dies right after the event was stored.
 */
@Injectable()
export class Erasure {
  readonly #reaction: Reaction;

  private constructor(reaction: Reaction) {
    this.#reaction = reaction;
  }

  static async start(
    events: EventStores, state: StateDatabases, read: ReadDatabases, keyrings: Keyrings, clock: Clock, licenses: Licenses, projectors: Projectors,
  ): Promise<Erasure> {
    return new Erasure(await Reaction.start({
      name: 'authority-erasure', events, databases: state, clock,
      follows: [{ category: License.category, types: ['LicenseErased'], bare: true }], timeoutMs: ERASED_WITHIN_MS,
      async react(events) {
        // Scrubbing rewrites a file: once for all licenses.
        const licenseIds = [...new Set(events.map(({ stream }) => subjectOf(stream) as LicenseId))];
        for (const table of ['authority_retired_keys', 'authority_activations', 'authority_refusals']) for (const licenseId of licenseIds) await state.here().run(`delete from ${table} where license_id = ?`, [licenseId]);
        await keyrings.here().shred(...licenseIds);
        for (const licenseId of licenseIds) licenses.forget(licenseId);
        await projectors.here().forget(licenseTable.name, licenseIds);
        await projectors.current();
        await read.here().scrub();
      },
    }));
  }

  /** Resolves when every erasure up to now is complete. */
  done(): Promise<void> {
    return this.#reaction.current();
  }

  close(): Promise<void> {
    return this.#reaction.close();
  }
}
