import type { Bus } from '@keyledger/contracts';

/** The inbox in which only the answers to one service's requests arrive. */
export const inboxOf = (service: string): string => `_INBOX.${service}`;

/**
 * The part of nats-server's configuration that admits only the services of the table, each with its own password (`$VARIABLE`, or a text in quotes),
 * and permits each only what the table says: to subscribe to subjects it answers, as a member of its own queue group, and to its own inbox; to
 * publish to subjects it sends, and to the inboxes of services that may send to it.
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

/** To nats-server an empty list means no limit at all. */
const listed = (what: string, subjects: readonly string[]): readonly string[] =>
  (subjects.length === 0 ? [`        ${what}: { deny: ">" }`] : [`        ${what}: [`, ...subjects.map((subject) => `          ${JSON.stringify(subject)}`), '        ]']);
