import {
  ActivateLicense, AssignLicense, DeactivateLicense, EditLicense, EraseLicense, GetLicense, GetProduct, InactivateLicense, IssueLicense, IssueOrderedLicense,
  PrepareLicenses, ReactivateLicense, RebindLicense, RegenerateKey, RenewLicense, RequireCustomer, ResolveKey, ResolveOffer, RevokeActivation, RevokeLicense,
  SeeInstance, SuspendLicense, UnsuspendLicense, type LicenseView, type ProductView,
} from '@keyledger/contracts';
import {
  beatSeconds, clientLicenseView, DEFAULT_KEY_FORMAT, instanceLike, instanceView, isMissed, issued, licenseView, likeMeters, termsOver, withUse, type IssuedLicense, type LicenseCommand, type LicenseState,
} from '@keyledger/domain';
import { context, isId, newId, Refusal, refuse, type ActivationId, type Instant } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Handles, MessageClient } from '@keyledger/messaging';
import { LicenseKeys } from './keys.ts';
import { Erasure } from './reactions.ts';
import { LeaseTokens } from './signed.handlers.ts';
import { Sightings } from './sightings.ts';
import { Licenses } from './streams.ts';
import { Usage } from './usage.handlers.ts';

/**
 * The license as the control plane sees it, at the revision of the answer. The view is taken when the state is that of the command,
 * in the context of whichever command is then at work on the stream, so the time is fixed here.
 */
function viewNow() {
  const { now } = context();
  return (state: LicenseState, revision: number): LicenseView => ({ ...licenseView(issued(state), now), revision });
}

@Handles(IssueLicense, IssueOrderedLicense)
export class IssueCommands {
  constructor(private readonly licenses: Licenses, private readonly keys: LicenseKeys, private readonly messages: MessageClient) {}

  async execute(command: IssueLicense | IssueOrderedLicense) {
    const { environment } = context();
    if (command instanceof IssueOrderedLicense) return this.#issue({ ...command, environment, key: this.keys.make(DEFAULT_KEY_FORMAT) });
    const licenseId = newId('lic');
    const done = await this.licenses.done(licenseId, 'Issue', viewNow());
    if (done) return withUse(done, {});
    const { productId, generatorId, planId, customerId, metadata, ...terms } = command;
    const offer = await this.messages.send(ResolveOffer, { productId, generatorId, planId, customerId });
    const { quotas = [], ...merged } = termsOver(offer.terms, terms);
    return this.#issue({
      licenseId, productId, generatorId, planId: offer.planId, customerId, metadata, environment,
      terms: { ...merged, quotas: likeMeters(quotas, offer.meters) }, key: this.keys.make(offer.keyFormat),
    });
  }

  async #issue(command: Omit<Extract<LicenseCommand, { type: 'Issue' }>, 'type'>) {
    const view = viewNow();
    const answer = await this.licenses.create(command.licenseId, { ...command, type: 'Issue' }, (state, revision) => ({ license: view(state, revision), hash: issued(state).keyHash }));
    this.keys.remember(answer.hash, answer.license.id);
    return withUse(answer.license, {});
  }
}

@Handles(PrepareLicenses)
export class PrepareCommand {
  constructor(private readonly keyrings: Keyrings) {}

  async execute({ licenseIds }: PrepareLicenses) {
    await this.keyrings.here().prepare(licenseIds, true);
    return null;
  }
}

type ChangeLicense = AssignLicense | EditLicense | InactivateLicense | ReactivateLicense | SuspendLicense | UnsuspendLicense | RevokeLicense | RenewLicense | RebindLicense;

/** Every command on an existing license: the message is the domain command. */
@Handles(AssignLicense, EditLicense, InactivateLicense, ReactivateLicense, SuspendLicense, UnsuspendLicense, RevokeLicense, RenewLicense, RebindLicense)
export class LicenseCommands {
  constructor(private readonly licenses: Licenses, private readonly messages: MessageClient, private readonly usage: Usage) {}

  async execute(command: ChangeLicense) {
    const view = viewNow();
    return this.usage.complete((await this.licenses.done(command.licenseId, command.type, view)) ?? (await this.#run(command, view)));
  }

  async #run(command: ChangeLicense, view: ReturnType<typeof viewNow>) {
    if ('customerId' in command && command.customerId) await this.messages.send(RequireCustomer, { customerId: command.customerId });
    return this.licenses.run(command.licenseId, { ...command, ...(await this.#meters(command)) }, view);
  }

  /** The product's meters, needed where a quota does not define its own. */
  async #meters(command: object): Promise<Pick<ProductView, 'meters'> | undefined> {
    if (!(command instanceof EditLicense) || !command.quotas?.some(({ per }) => per === undefined)) return undefined;
    const productId = await this.licenses.load(command.licenseId, (state) => issued(state).productId);
    const { meters } = await this.messages.send(GetProduct, { productId });
    return { meters };
  }
}

@Handles(RegenerateKey)
export class RegenerateKeyCommand {
  constructor(private readonly licenses: Licenses, private readonly keys: LicenseKeys, private readonly usage: Usage) {}

  async execute({ licenseId, reason }: RegenerateKey) {
    const view = viewNow();
    const { keyHash, keyFormat } = await this.licenses.load(licenseId, (state) => ({ keyHash: issued(state).keyHash, keyFormat: issued(state).keyFormat }));
    await this.keys.retire(keyHash, licenseId);
    const answer = await this.licenses.run(licenseId, { type: 'RegenerateKey', key: this.keys.make(keyFormat), ...(reason !== undefined && { reason }) },
      (state, revision) => ({ license: view(state, revision), hash: issued(state).keyHash }));
    this.keys.remember(answer.hash, licenseId);
    return this.usage.complete(answer.license);
  }
}

@Handles(EraseLicense)
export class EraseCommand {
  constructor(private readonly licenses: Licenses, private readonly erasure: Erasure) {}

  async execute({ licenseId, reason, force }: EraseLicense) {
    const mayEraseActivated = context().actor.permissions.includes('license.erase');
    await this.licenses.run(licenseId, { type: 'Erase', reason, mayEraseActivated, ...(force !== undefined && { force }) });
    await this.erasure.done();
    return null;
  }
}

/** The customer's software takes a seat, and a lease for the time it is offline; no lease while a directive has it locked. */
@Handles(ActivateLicense)
export class ActivateCommand {
  constructor(
    private readonly licenses: Licenses, private readonly keys: LicenseKeys, private readonly leases: LeaseTokens, private readonly usage: Usage, private readonly sightings: Sightings,
    private readonly messages: MessageClient,
  ) {}

  async execute({ licenseKey, address, ...instance }: ActivateLicense) {
    const keyHash = this.keys.hashOf(licenseKey);
    const licenseId = await this.keys.find(keyHash);
    if (!licenseId) throw await this.keys.notFound(keyHash);
    const activationId = newId('act');
    const { now } = context();
    const machine = instance.fingerprint ?? instance.installationId ?? address;
    const { answer, lease, took } = await this.licenses.run(licenseId, { type: 'Activate', activationId, keyHash, ...instance }, (state, revision, events) => {
      const license = issued(state);
      const seen = activated(license, instance, activationId, now);
      return { answer: seen, lease: license.locked ? undefined : this.leases.statementOf(license, seen.instance, revision, seen.created), took: events.length > 0 ? revision : undefined };
    }).catch((error: unknown) => {
      if (error instanceof Refusal && error.code === 'ACTIVATION_LIMIT_EXCEEDED') this.sightings.refused(licenseId, machine);
      throw error;
    });
    // Not in the view, which is taken before anything is stored, and again after each lost race.
    if (took !== undefined) this.sightings.took(licenseId, { machine, address, revision: took });
    // So that the list of instances says the same as the answer. The client does not wait: last-seen times are not acknowledged.
    if (!answer.created) void this.messages.send(SeeInstance, { activationId: answer.instance.id, at: answer.instance.lastSeenAt }).catch(() => undefined);
    const token = lease && await this.leases.tokenFor(lease);
    return { ...answer, license: await this.usage.complete(answer.license), ...(token !== undefined && { token }) };
  }
}

function activated(license: IssuedLicense, instance: Parameters<typeof instanceLike>[1], activationId: ActivationId, now: Instant) {
  const activation = license.activations.get(activationId) ?? instanceLike(license, instance);
  if (!activation) throw new Error(`${license.id} was activated, but the instance cannot be found`);
  const { id, name, fingerprint, metadata, createdAt } = instanceView(activation);
  return {
    activated: true as const,
    // Also if an earlier run of the same message created it.
    created: license.activations.has(activationId),
    instance: { id, name, fingerprint, createdAt, lastSeenAt: now, metadata },
    license: clientLicenseView(license, now),
    ...(isMissed(license.terms) && { heartbeatIntervalSeconds: beatSeconds(license.terms) }),
  };
}

@Handles(DeactivateLicense)
export class DeactivateCommand {
  constructor(private readonly licenses: Licenses, private readonly keys: LicenseKeys) {}

  async execute({ licenseKey, instanceId }: DeactivateLicense) {
    const keyHash = this.keys.hashOf(licenseKey);
    const licenseId = await this.keys.find(keyHash);
    if (!licenseId) throw await this.keys.notFound(keyHash);
    if (!isId('act', instanceId)) throw refuse('INSTANCE_NOT_FOUND');
    return this.licenses.run(licenseId, { type: 'Deactivate', activationId: instanceId, keyHash, by: 'client' }, (state) => {
      const { activationCount, terms: { activationLimit } } = issued(state);
      return { deactivated: true as const, activationCount, activationLimit };
    });
  }
}

@Handles(RevokeActivation)
export class RevokeActivationCommand {
  constructor(private readonly licenses: Licenses) {}

  async execute({ licenseId, activationId }: RevokeActivation) {
    await this.licenses.run(licenseId, { type: 'Deactivate', activationId: activationId as ActivationId, by: 'admin' });
    return null;
  }
}

@Handles(GetLicense)
export class LicenseQuery {
  constructor(private readonly licenses: Licenses, private readonly usage: Usage) {}

  async execute({ licenseId }: GetLicense) {
    return this.usage.complete(await this.licenses.load(licenseId, viewNow()));
  }
}

@Handles(ResolveKey)
export class ResolveKeyQuery {
  constructor(private readonly keys: LicenseKeys) {}

  async execute({ keyHash }: ResolveKey) {
    const licenseId = await this.keys.find(keyHash);
    return licenseId ? { licenseId, retired: false } : { licenseId: null, retired: await this.keys.wasKey(keyHash) };
  }
}
