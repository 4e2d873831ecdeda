import { hash } from 'node:crypto';
import { ContinueLease, GetCustomer, IssueLicenseFile, IssueOfflineFile, SignLeases, SignLicenseFile, SignOfflineFile, type Licensed } from '@keyledger/contracts';
import { isLive, isMissed, issued, leaseSeconds, licensedTerms, mustBeGoodForFile, statusOf, verdictOf, type IssuedLicense } from '@keyledger/domain';
import { context, isId, Refusal, refuse, type ActivationId, type CustomerId } from '@keyledger/kernel';
import { Handles, MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Injectable } from '@nestjs/common';
import { Licenses } from './streams.ts';

/** What the authority states about a license, for the signing service to sign. */

const licensed = (license: IssuedLicense): Licensed => licensedTerms(license) as Licensed;

@Handles(IssueLicenseFile)
export class LicenseFileCommand {
  constructor(private readonly licenses: Licenses, private readonly messages: MessageClient) {}

  async execute({ licenseId }: IssueLicenseFile) {
    const { now } = context();
    const { customerId, ...statement } = await this.licenses.load(licenseId, (state, seq) => {
      const license = issued(state);
      mustBeGoodForFile(license, now);
      return { customerId: license.customerId, seq, status: statusOf(license, now), license: licensed(license) };
    });
    const { content, issuedAt } = await this.messages.send(SignLicenseFile, { ...statement, customer: customerId && (await this.#customer(customerId)) });
    return { filename: `${licenseId}.license`, content, issuedAt, expiresAt: statement.license.expiresAt };
  }

  /** An erased customer has no name any more but is still the holder. */
  async #customer(id: CustomerId) {
    try {
      return { id, name: (await this.messages.send(GetCustomer, { customerId: id })).name };
    } catch (error) {
      if (error instanceof Refusal && error.code === 'CUSTOMER_NOT_FOUND') return { id, name: null };
      throw error;
    }
  }
}

@Handles(IssueOfflineFile)
export class OfflineFileCommand {
  constructor(private readonly licenses: Licenses, private readonly messages: MessageClient) {}

  async execute({ licenseId, activationId }: IssueOfflineFile) {
    const { now } = context();
    const statement = await this.licenses.load(licenseId, (state, seq) => {
      const license = issued(state);
      const activation = activationId === undefined ? undefined : license.activations.get(activationId as ActivationId);
      if (activationId !== undefined && (!isId('act', activationId) || !isLive(activation))) throw refuse('INSTANCE_NOT_FOUND');
      const question = { ...(activation && { instanceId: activation.id }), ...(activation?.fingerprint && { fingerprint: activation.fingerprint }) };
      const { valid, code, reasons, enforcement, graceEndsAt } = verdictOf(state, undefined, question, now);
      const asked = hash('sha256', JSON.stringify(question), 'base64url').slice(0, 22);
      return {
        seq, activationId: activation?.id ?? null, fingerprint: activation?.fingerprint ?? null, license: licensed(license),
        verdict: { valid, code, reasons, conclusive: true, enforcement, graceEndsAt, decisionId: `${licenseId}.${seq}.${Date.parse(now).toString(36)}.${asked}`, checkedAt: now },
      };
    });
    return { filename: `${licenseId}.offline.json`, ...(await this.messages.send(SignOfflineFile, statement)) };
  }
}

/** Time for a lease to be signed. A seat that was taken is not given back while signing is unavailable: the instance asks again. */
const signedWithinMs = 2000;

/** The lease that an instance gets with its seat, or has when it asks for the seat once more. */
@Injectable()
export class LeaseTokens {
  constructor(private readonly messages: MessageClient, private readonly log: Log) {}

  /** The lease to sign, by the license state of the answer. A running lease whose end the server watches for is kept by `activation`. */
  statementOf(license: IssuedLicense, activation: { id: ActivationId; fingerprint: string | null }, seq: number, isNew: boolean): Statement {
    if (!isNew && isMissed(license.terms)) return { licenseId: license.id, activationId: activation.id };
    return { activationId: activation.id, fingerprint: activation.fingerprint, counter: 0, seq, seconds: leaseSeconds(license.terms), license: licensed(license) };
  }

  async tokenFor(statement: Statement): Promise<string | undefined> {
    try {
      return (await this.#token(statement)) ?? undefined;
    } catch (error) {
      // The seat has just ended: the answer would describe a seat that no longer exists.
      if (error instanceof Refusal && error.code === 'TRY_AGAIN') throw error;
      this.log.warn({ err: error, activationId: statement.activationId }, 'activated without a lease token');
      return undefined;
    }
  }

  async #token(statement: Statement): Promise<string | null | undefined> {
    if ('licenseId' in statement) return (await this.messages.send(ContinueLease, statement, { timeoutMs: signedWithinMs })).token;
    return (await this.messages.send(SignLeases, { leases: [statement] }, { timeoutMs: signedWithinMs })).tokens[0];
  }
}

/** A lease to sign, or one that exists already. */
type Statement = SignLeases['leases'][number] | Pick<ContinueLease, 'licenseId' | 'activationId'>;
