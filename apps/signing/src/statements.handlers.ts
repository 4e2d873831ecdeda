import { hash, randomUUID } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { SignLeases, SignLicenseFile, SignOfflineFile, SignVerdicts } from '@keyledger/contracts';
import type { RecordedSignature } from '@keyledger/domain';
import { addSeconds, Clock, context, refuse, runIn, systemContext, type Instant } from '@keyledger/kernel';
import type { LeaseClaims, LicenseFile, OfflineFile, VerdictClaims } from '@keyledger/license-file';
import { TooLarge, type Statement } from '@keyledger/license-file/sign';
import { Handles } from '@keyledger/messaging';
import { Metrics } from '@keyledger/observability';
import { Injectable } from '@nestjs/common';
import { Keys, SigningStreams } from './keys.ts';
import { KeyStore } from './key-store.ts';

/** How long an answer may be relied on without asking again. */
const daySeconds = 86_400;

const linesPerPage = 1000;

/** Records of what is about to be signed in one environment: while one line is written, the next gathers. Only this object writes its streams, and it never reads them. */
class Book {
  #page = { id: randomUUID() as string, lines: 0 };
  #writing: Promise<unknown> = Promise.resolve();
  #next: { readonly signatures: RecordedSignature[]; readonly written: Promise<void> } | undefined;

  constructor(private readonly write: (page: string, signatures: readonly RecordedSignature[]) => Promise<unknown>) {}

  /** Resolves when it is in the log. */
  add(signature: RecordedSignature): Promise<void> {
    if (!this.#next) {
      const signatures: RecordedSignature[] = [];
      // After the turn in which the first statement came: all statements of that turn share the line.
      const written = this.#writing.then(() => nextTurn()).then(() => this.#line(signatures));
      this.#next = { signatures, written };
      this.#writing = written.catch(() => undefined);
    }
    this.#next.signatures.push(signature);
    return this.#next.written;
  }

  async #line(signatures: readonly RecordedSignature[]): Promise<void> {
    this.#next = undefined;
    if (this.#page.lines++ === linesPerPage) this.#page = { id: randomUUID(), lines: 1 };
    await this.write(this.#page.id, signatures);
  }
}

/** Records what is about to be signed, then signs it: nothing is ever signed without a record. */
@Injectable()
export class Signatures {
  readonly #books = new Map<string, Book>();

  constructor(private readonly streams: SigningStreams, private readonly store: KeyStore, private readonly metrics: Metrics, private readonly clock: Clock) {}

  async recorded(kid: string, statement: Statement, about: Omit<RecordedSignature, 'kid' | 'digest'>): Promise<string> {
    await this.#bookOf(context().environment).add({ ...about, kid, digest: hash('sha256', JSON.stringify(statement.payload), 'base64url') });
    return this.plain(kid, statement);
  }

  /** Without a record: for verdicts, which are only counted. */
  async plain(kid: string, statement: Statement): Promise<string> {
    const text = await this.store.sign(kid, statement);
    this.metrics.signature(statement.type);
    return text;
  }

  /** In a context of its own: a line holds statements of several callers, and each signature is recorded, also when a command runs again. */
  #bookOf(environment: string): Book {
    let book = this.#books.get(environment);
    if (!book) {
      book = new Book((page, signatures) => runIn(systemContext(environment, this.clock.now(environment)), () => this.streams.signatures.create(page, { type: 'Record', signatures })));
      this.#books.set(environment, book);
    }
    return book;
  }
}

@Handles(SignLicenseFile, SignOfflineFile)
export class FileSigning {
  constructor(private readonly keys: Keys, private readonly signatures: Signatures) {}

  async execute(command: SignLicenseFile | SignOfflineFile) {
    const { environment, now: issuedAt } = context();
    const { kid, certificate } = await this.keys.signer('license-file');
    const { seq, license } = command;
    try {
      if (command instanceof SignLicenseFile) {
        const payload: LicenseFile = { environment, issuedAt, seq, status: command.status, customer: command.customer, license };
        const content = await this.signatures.recorded(kid, { type: 'license-file', certificate, payload }, { statement: 'license-file', licenseId: license.id, activationId: null, seq, expiresAt: null });
        return { content, issuedAt };
      }
      const expiresAt = addSeconds(issuedAt, daySeconds);
      const { activationId, fingerprint, verdict } = command;
      const payload: OfflineFile = { environment, issuedAt, expiresAt, seq, activationId, fingerprint, verdict, license };
      const content = await this.signatures.recorded(kid, { type: 'offline-file', certificate, payload }, { statement: 'offline-file', licenseId: license.id, activationId, seq, expiresAt });
      return { content, issuedAt, expiresAt };
    } catch (error) {
      if (error instanceof TooLarge) throw refuse('LICENSE_TOO_LARGE');
      throw error;
    }
  }
}

@Handles(SignLeases)
export class LeaseSigning {
  constructor(private readonly keys: Keys, private readonly signatures: Signatures) {}

  async execute({ leases }: SignLeases) {
    const { environment, now } = context();
    const { kid } = await this.keys.signer('lease');
    const iat = secondsOf(now);
    return {
      tokens: await Promise.all(leases.map(({ activationId, fingerprint, counter, seq, seconds, license }) => {
        const payload: LeaseClaims = {
          ...claims(environment, iat, seconds), aud: license.productId, sub: activationId, fingerprint, counter, seq, license,
        };
        const about = { statement: 'lease', licenseId: license.id, activationId, seq, expiresAt: addSeconds(now, seconds) } as const;
        return smallEnough(this.signatures.recorded(kid, { type: 'lease', payload }, about));
      })),
    };
  }
}

@Handles(SignVerdicts)
export class VerdictSigning {
  constructor(private readonly keys: Keys, private readonly signatures: Signatures) {}

  async execute({ verdicts }: SignVerdicts) {
    const { environment, now } = context();
    const { kid } = await this.keys.signer('verdict');
    const common = claims(environment, secondsOf(now), daySeconds);
    return {
      tokens: await Promise.all(verdicts.map(({ nonce, audience, instanceId, fingerprint, seq, verdict, license }) => {
        const payload: VerdictClaims = {
          ...common, jti: randomUUID(), aud: audience ?? license?.productId ?? 'keyledger', sub: license?.id ?? '-', fingerprint, counter: Math.max(seq, 0),
          nonce, instanceId, verdict, license,
        };
        return smallEnough(this.signatures.plain(kid, { type: 'verdict', payload }));
      })),
    };
  }
}

const claims = (env: string, iat: number, seconds: number) => ({ iss: 'keyledger' as const, env, iat, nbf: iat, exp: iat + Math.max(seconds, 1), jti: randomUUID() });
const secondsOf = (at: Instant): number => Math.floor(Date.parse(at) / 1000);

async function smallEnough(signing: Promise<string>): Promise<string | null> {
  try {
    return await signing;
  } catch (error) {
    if (error instanceof TooLarge) return null;
    throw error;
  }
}
