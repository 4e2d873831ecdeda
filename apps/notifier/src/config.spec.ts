import { describe, expect, it } from '@jest/globals';
import { notifierConfig } from './config.ts';

const mail = { KEYLEDGER_SMTP_URL: 'smtp://user:pass@mail.example.com:587', KEYLEDGER_MAIL_FROM: 'licenses@example.com' };

describe('The configuration of mail', () => {
  it.each(['licenses@example.com', 'Example <licenses@example.com>', '"Example, Inc." <licenses@example.com>', 'Example licenses@example.com', 'licenses@localhost'])('takes %s for the sender', (from) => {
    expect(notifierConfig({ ...mail, KEYLEDGER_MAIL_FROM: from }).mail).toMatchObject({ from });
  });

  it.each([
    ...['smtp://', 'smtp:///mail', 'mail.example.com:587', 'http://mail.example.com'].map((url) => [{ KEYLEDGER_SMTP_URL: url }, /^KEYLEDGER_SMTP_URL must be/] as const),
    ...['not an address', 'licenses', 'licenses@', '<@example.com>'].map((from) => [{ KEYLEDGER_MAIL_FROM: from }, /^KEYLEDGER_MAIL_FROM must be/] as const),
    [{ KEYLEDGER_MAIL_FROM: '' }, /but KEYLEDGER_MAIL_FROM, .* is not$/], [{ KEYLEDGER_MAIL_LICENSE_KEYS: 'yes' }, /^KEYLEDGER_MAIL_LICENSE_KEYS/],
  ])('names what is wrong: %j', (env, why) => {
    expect(() => notifierConfig({ ...mail, ...env })).toThrow(why);
  });

  it('is looked at where there is no mail server, too', () => {
    expect(notifierConfig({}).mail).toBeUndefined();
    expect(() => notifierConfig({ KEYLEDGER_MAIL_LICENSE_KEYS: 'yes' })).toThrow(/^KEYLEDGER_MAIL_LICENSE_KEYS/);
  });
});
