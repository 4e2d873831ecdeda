import { settingOrFile } from '@keyledger/kernel';

export interface NotifierConfig {
  /** KEYLEDGER_WEBHOOK_ALLOW_PRIVATE: webhooks may also go to this machine, to private networks, and over plain HTTP. */
  allowPrivate: boolean;
  /** KEYLEDGER_SMTP_URL or KEYLEDGER_SMTP_URL_FILE, and KEYLEDGER_MAIL_FROM; without them no mail is sent. */
  mail: MailConfig | undefined;
}
export interface MailConfig {
  smtpUrl: string;
  from: string;
  /** KEYLEDGER_MAIL_LICENSE_KEYS: customers are sent the key of a license that is issued for or assigned to them, and a new one that takes its place. */
  licenseKeys: boolean;
  /** KEYLEDGER_MAIL_ALL_ENVIRONMENTS: mail goes to customers of other environments than production too. */
  allEnvironments: boolean;
}

export const notifierConfig = (env: NodeJS.ProcessEnv = process.env): NotifierConfig => ({ allowPrivate: isTrue(env, 'KEYLEDGER_WEBHOOK_ALLOW_PRIVATE'), mail: mailConfig(env) });

function mailConfig(env: NodeJS.ProcessEnv): MailConfig | undefined {
  const smtpUrl = settingOrFile(env, 'KEYLEDGER_SMTP_URL', 'KEYLEDGER_SMTP_URL_FILE');
  // Checked in any case: a wrong one is reported at the start and not on the day a mail server is set.
  const switches = { licenseKeys: isTrue(env, 'KEYLEDGER_MAIL_LICENSE_KEYS'), allEnvironments: isTrue(env, 'KEYLEDGER_MAIL_ALL_ENVIRONMENTS') };
  if (smtpUrl === undefined) return undefined;
  if (!/^smtps?:\/\//.test(smtpUrl) || !URL.parse(smtpUrl)?.hostname) throw new Error('KEYLEDGER_SMTP_URL must be smtp://… or smtps://… with the name of a server');
  const from = env['KEYLEDGER_MAIL_FROM'];
  if (!from) throw new Error('KEYLEDGER_SMTP_URL is set, but KEYLEDGER_MAIL_FROM, the sender address of mail, is not');
  if (!/[^\s<>@]@[^\s<>@]+>?$/.test(from.trim())) throw new Error('KEYLEDGER_MAIL_FROM must be an address: licenses@example.com, or Example <licenses@example.com>');
  return { smtpUrl, from, ...switches };
}

function isTrue(env: NodeJS.ProcessEnv, name: string): boolean {
  const value = env[name] || 'false';
  if (value !== 'true' && value !== 'false') throw new Error(`${name} must be true or false`);
  return value === 'true';
}
