import { BindAppliance, QueueDirective, RecoverHeartbeat } from '@keyledger/contracts';
import { instanceLike, issued } from '@keyledger/domain';
import { newId, Refusal, refuse } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Sightings } from './sightings.ts';
import { Licenses } from './streams.ts';

/** Activations of appliances, and directives for them. Their heartbeats are not here: see activation. */

@Handles(BindAppliance)
export class BindCommand {
  constructor(private readonly licenses: Licenses, private readonly sightings: Sightings) {}

  async execute({ licenseId, keyHash, fingerprint, hostname, address }: BindAppliance) {
    const activationId = newId('act');
    const { revision, ...bound } = await this.licenses.run(
      licenseId, { type: 'Activate', activationId, appliance: true, fingerprint, ...(keyHash !== undefined && { keyHash }), ...(hostname !== undefined && { instanceName: hostname }) },
      (state, revision, events) => ({ activationId: instanceLike(issued(state), { fingerprint })?.id ?? activationId, created: events.length > 0, revision }),
    ).catch((error: unknown) => {
      if (error instanceof Refusal && error.code === 'FINGERPRINT_MISMATCH') this.sightings.refused(licenseId, fingerprint);
      throw error;
    });
    // The events a view is given may not get stored.
    if (bound.created) this.sightings.took(licenseId, { machine: fingerprint, address, revision });
    return bound;
  }
}

@Handles(QueueDirective)
export class QueueDirectiveCommand {
  constructor(private readonly licenses: Licenses) {}

  execute({ licenseId, kind, payload }: QueueDirective) {
    const directiveId = newId('dir');
    return this.licenses.run(licenseId, { type: 'QueueDirective', directiveId, kind, ...(payload && { payload }) }, (state) => {
      const directive = issued(state).directives.find(({ id }) => id === directiveId);
      // An earlier try queued it, and so many others followed that it has been dropped.
      if (!directive) throw refuse('TRY_AGAIN');
      return { id: directiveId, kind, ...(directive.payload && { payload: directive.payload }), issuedAt: directive.issuedAt };
    });
  }
}

@Handles(RecoverHeartbeat)
export class RecoverHeartbeatCommand {
  constructor(private readonly licenses: Licenses) {}

  async execute({ licenseId, activationId }: RecoverHeartbeat) {
    await this.licenses.run(licenseId, { type: 'RecoverHeartbeat', activationId });
    return null;
  }
}
