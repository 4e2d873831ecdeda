import type { Bus } from '@keyledger/contracts';

/** Where the answers to what a service asks arrive, and nobody else's. */
export const inboxOf = (service: string): string => `_INBOX.${service}`;

/**
 * The part of nats-server's configuration that lets nobody in but the services of the table, each with a password of its own (`$VARIABLE`, or
 * a text in quotes), and lets each listen and send to what the table says only: on subjects that it answers, as a member of its own queue group,
 * and in its own inbox; to subjects that it asks, and into the inboxes of those who may ask it.
 */
export function natsUsers(bus: Bus, passwordOf: (service: string) => string): string {
  const users = [...new Set([...Object.keys(bus), ...Object.values(bus).flatMap(Object.keys)])].sort();
  const lines = users.flatMap((user) => {
    const own = bus[user] ?? {};
    const asks = Object.values(bus).flatMap(({ [user]: subjects = [] }) => subjects);
    const publish = [...[...new Set(asks)].sort(), ...Object.keys(own).sort().map((asker) => `${inboxOf(asker)}.>`)];
    const subscribe = [...[...new Set(Object.values(own).flat())].sort().map((subject) => `${subject} ${user}`), `${inboxOf(user)}.>`];
    return [
      `    {`, `      user: ${user}, password: ${passwordOf(user)}`, `      permissions: {`,
      ...listed('publish', publish), ...listed('subscribe', subscribe), `      }`, `    }`,
    ];
  });
  return ['authorization {', '  users: [', ...lines, '  ]', '}', ''].join('\n');
}

/** For nats-server an empty list would be no limit at all. */
const listed = (what: string, subjects: readonly string[]): readonly string[] =>
  (subjects.length === 0 ? [`        ${what}: { deny: ">" }`] : [`        ${what}: [`, ...subjects.map((subject) => `          ${JSON.stringify(subject)}`), '        ]']);
