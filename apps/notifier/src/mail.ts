import { Customer, isErased, License, Product, type CustomerCommand, type CustomerEvent, type CustomerState, type LicenseCommand, type LicenseEvent, type LicenseState, type ProductCommand, type ProductEvent, type ProductState } from '@keyledger/domain';
import { Aggregates, subjectOf, type EventStores } from '@keyledger/event-store';
import { context, type CustomerId, type Instant, type LicenseId } from '@keyledger/kernel';
import type { Keyrings } from '@keyledger/keyring';
import type { Transporter } from 'nodemailer';
import type { MailsOf } from './announcer.ts';
import type { MailConfig } from './config.ts';
import type { Channel } from './courier.ts';
import type { Answer } from './egress.ts';
import type { ClaimedParcel } from './outbox.ts';

/** What a mail is about. No personal data: the recipient and the key are read when it is sent. */
export type Occasion =
  | { readonly kind: 'expiring'; readonly days: number; readonly expiresAt: Instant }
  /** The license has a customer now, whether it was issued for that customer or assigned later. */
  | { readonly kind: 'issued'; readonly customerId?: CustomerId }
  | { readonly kind: 'regenerated'; readonly keyVersion: number };
interface Letter {
  readonly subject: string;
  readonly text: string;
}
/** After this long without an answer an attempt at the mail server is given up. */
const TIMEOUT_MS = 10_000;
const DAY_MS = 86_400_000;

/** Customers of a test environment may be copies of real ones. */
const isSentIn = (environment: string, { allEnvironments }: MailConfig): boolean => environment === 'production' || allEnvironments;

/** The mail of an event, if it has one, as the outbox keeps it. */
export const mailsOf = (config: MailConfig, environment: string): MailsOf => ({ type, data, stream }) => {
  if (!isSentIn(environment, config)) return undefined;
  const parcel = (told: string, occasion: Occasion) => ({ type: told, body: JSON.stringify({ licenseId: subjectOf(stream), occasion }) });
  if (type === 'ExpiryReminderDue') return parcel('license.expiring', { kind: 'expiring', days: data['days'] as number, expiresAt: data['expiresAt'] as Instant });
  if (!config.licenseKeys) return undefined;
  switch (type) {
    case 'LicenseIssued': return data['customerId'] ? parcel('license.issued', { kind: 'issued', customerId: data['customerId'] as CustomerId }) : undefined;
    case 'LicenseAssigned': return parcel('license.assigned', { kind: 'issued', customerId: data['customerId'] as CustomerId });
    case 'KeyRegenerated': return parcel('license.key-regenerated', { kind: 'regenerated', keyVersion: data['keyVersion'] as number });
    default: return undefined;
  }
};

/** The mail, or why there is none (any more). A late reminder states the days left now, and of several only the last is sent. */
function letterOf(occasion: Occasion, license: LicenseState, { product, name, now }: { readonly product: string; readonly name: string; readonly now: Instant }): Letter | string {
  if (license.existence !== 'issued' || license.revokedAt) return 'the license no longer exists or is revoked';
  const greeting = `Dear ${name},\n\n`;
  if (occasion.kind !== 'expiring' && !license.key) return 'the license no longer exists or is revoked';
  if (occasion.kind === 'regenerated') {
    if (license.keyVersion !== occasion.keyVersion) return 'the key has been regenerated again';
    return { subject: `Your new license key for ${product}`, text: `${greeting}This is your new license key for ${product}:\n\n${license.key}\n\nThe previous key is no longer valid.\n` };
  }
  if (occasion.kind === 'issued') {
    if (occasion.customerId !== undefined && occasion.customerId !== license.customerId) return 'the license belongs to another customer now';
    return { subject: `Your license key for ${product}`, text: `${greeting}This is your license key for ${product}:\n\n${license.key}\n\nKeep it safe: it activates the software.\n` };
  }
  const { expiresAt, days } = occasion;
  if (license.terms.expiresAt !== expiresAt) return 'the license no longer expires at that time';
  if (license.reminded !== null && license.reminded < days) return 'a later reminder replaces this one';
  const left = Math.ceil((Date.parse(expiresAt) - Date.parse(now)) / DAY_MS);
  if (left <= 0) return 'the license has expired';
  const span = left === 1 ? 'one day' : `${left} days`;
  return { subject: `Your license for ${product} expires in ${span}`, text: `${greeting}Your license ${license.keyPrefix}… for ${product} expires in ${span}, on ${expiresAt.slice(0, 10)}.\n\nRenew it in time to continue without interruption.\n` };
}

const escapes: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
/** The same text as HTML. */
const htmlOf = (text: string): string => text.trim().split('\n\n').map((paragraph) => `<p>${paragraph.replaceAll(/[&<>"]/g, (one) => escapes[one] as string)}</p>`).join('\n');

/** Mail to customers by SMTP. */
export class MailChannel implements Channel {
  readonly #licenses: Aggregates<LicenseState, LicenseCommand, LicenseEvent>;
  readonly #customers: Aggregates<CustomerState | null, CustomerCommand, CustomerEvent>;
  readonly #products: Aggregates<ProductState | null, ProductCommand, ProductEvent>;
  readonly #config: MailConfig;
  readonly #transport: Transporter;

  /** nodemailer is loaded only where mail is sent: it would add forty modules to each start. Rejects when the server's URL is not valid. */
  static async open(config: MailConfig, events: EventStores, keyrings: Keyrings): Promise<MailChannel> {
    const { createTransport } = await import('nodemailer');
    const limits = { connectionTimeout: TIMEOUT_MS, greetingTimeout: TIMEOUT_MS, socketTimeout: TIMEOUT_MS };
    return new MailChannel(createTransport({ url: config.smtpUrl, ...limits, disableFileAccess: true, disableUrlAccess: true }), config, events, keyrings);
  }

  private constructor(transport: Transporter, config: MailConfig, events: EventStores, keyrings: Keyrings) {
    const few = { maxFolds: 1_000 };
    this.#licenses = new Aggregates(License, events, keyrings, few);
    this.#customers = new Aggregates(Customer, events, keyrings, few);
    this.#products = new Aggregates(Product, events, keyrings, few);
    this.#config = config;
    this.#transport = transport;
  }

  /** An attempt is never aborted: a server that has received half of a mail may have accepted all of it. Its answers may name the recipient, so only their code is kept. */
  async attempt({ id, body }: ClaimedParcel): Promise<Answer | string> {
    const { licenseId, occasion } = JSON.parse(body) as { licenseId: LicenseId; occasion: Occasion };
    const { environment, now } = context();
    if (!isSentIn(environment, this.#config)) return 'mail is sent from production only';
    const about = await this.#licenses.load(licenseId, (license) => (license.existence === 'issued' ? { customerId: license.customerId, productId: license.productId } : undefined));
    const customer = about?.customerId ? await this.#customers.load(about.customerId, (state) => (state && !isErased(state) ? state : undefined)) : undefined;
    if (!about || !customer?.email) return 'the license has no customer with an e-mail address';
    const product = await this.#products.load(about.productId, (state) => state?.name ?? 'your software');
    const letter = await this.#licenses.load(licenseId, (license) => letterOf(occasion, license, { product, name: customer.name ?? 'customer', now }));
    if (typeof letter === 'string') return letter;
    try {
      await this.#transport.sendMail({
        from: this.#config.from, to: { name: customer.name ?? '', address: customer.email }, subject: environment === 'production' ? letter.subject : `[${environment}] ${letter.subject}`,
        // The same for every attempt, so that a mailbox can recognise a duplicate.
        messageId: `<${id}@keyledger>`, text: letter.text, html: htmlOf(letter.text), headers: { 'Auto-Submitted': 'auto-generated' },
      });
      return { status: 250, text: null, error: null };
    } catch (error) {
      const { responseCode = null, code = 'the mail server did not answer', command = '' } = error as { responseCode?: number; code?: string; command?: string };
      // A refusal of the recipient or the text is final; a refusal of the sender (credentials, permission) can be put right by the operator.
      const isFinal = responseCode !== null && responseCode >= 500 && ['RCPT TO', 'DATA'].includes(command);
      return { status: responseCode, text: null, error: code, isFinal };
    }
  }

  async giveUp(): Promise<void> {
    // There is only one mail server, so it is never given up.
  }

  /** The license's data key has been destroyed. */
  forget(licenseId: LicenseId): void {
    this.#licenses.forget(licenseId);
  }

  close(): void {
    this.#transport.close();
  }
}
