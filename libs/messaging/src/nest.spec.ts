import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Injectable } from '@nestjs/common';
import { Command, CommandBus, CommandHandler, CqrsModule, Query } from '@nestjs/cqrs';
import { Test, type TestingModule } from '@nestjs/testing';
import { context, runIn, systemClock, systemContext, type Clock } from '@keyledger/kernel';
import { MessageClient } from './client.ts';
import { InProcessTransport } from './in-process.ts';
import { Handles, serveMessages } from './nest.ts';

class Open extends Command<string> {
  static readonly subject = 'door.open';
  readonly type = 'Open';
  door!: string;
}
class Close extends Command<string> {
  static readonly subject = 'door.close';
  readonly type = 'Close';
  door!: string;
}
class Lock extends Command<string> {
  static readonly subject = 'door.lock';
  readonly type = 'Lock';
}
class FindDoor extends Query<{ door: string; direct: boolean }> {
  static readonly subject = 'door.find';
  door!: string;
}
class PeekDoor extends Query<{ door: string; direct: boolean }> {
  static readonly subject = 'door.peek';
  static readonly direct = true;
  door!: string;
}

@Injectable()
class Hinges {
  swing(message: Open | Close): string {
    return `${message.type} ${message.door} of ${context().environment} at ${context().now}`;
  }
}

@Handles(Open, Close)
class DoorCommands {
  constructor(private readonly hinges: Hinges) {}

  execute(message: Open | Close): string {
    return this.hinges.swing(message);
  }
}

@Handles(FindDoor, PeekDoor)
class DoorQueries {
  async execute(message: FindDoor | PeekDoor) {
    return { door: message.door, direct: message instanceof PeekDoor };
  }
}

/** As @nestjs/cqrs has it, for a class that handles one message. */
@CommandHandler(Lock)
class LockHandler {
  execute(): string {
    return 'locked';
  }
}

const doors = { imports: [CqrsModule.forRoot()], providers: [Hinges, DoorCommands, DoorQueries, LockHandler] };

describe('A Nest application that serves its messages', () => {
  const clock: Clock = { now: (environment) => `${environment} o'clock` };
  const options = { queue: 'doors', clock, onError: () => undefined };
  const transport = new InProcessTransport();
  const client = new MessageClient(transport);
  const inStaging = <T>(work: () => T): T => runIn(systemContext('staging', systemClock.now('staging')), work);
  let app: TestingModule;
  let subjects: readonly string[];

  beforeAll(async () => {
    app = await Test.createTestingModule(doors).compile();
    await app.init();
    subjects = await serveMessages(app, transport, options);
  });
  afterAll(async () => {
    await transport.close();
    await app.close();
  });

  it('answers every class that a handler handles', () => {
    expect(subjects.toSorted()).toEqual(['door.close', 'door.find', 'door.lock', 'door.open', 'door.peek']);
  });

  it.each([[Open, 'Open'], [Close, 'Close']] as const)('with one handler for all of an aggregate\'s commands (%#)', async (type, name) => {
    expect(await inStaging(() => client.send<Open | Close>(type, { door: 'front' }))).toBe(`${name} front of staging at staging o'clock`);
  });

  it('with queries, direct messages and handlers of a single class', async () => {
    expect(await inStaging(() => client.send(FindDoor, { door: 'a' }))).toEqual({ door: 'a', direct: false });
    expect(await inStaging(() => client.send(PeekDoor, { door: 'b' }))).toEqual({ door: 'b', direct: true });
    expect(await inStaging(() => client.send(Lock, {}))).toBe('locked');
  });

  it('has all of them on its own command bus too', async () => {
    const open = Object.assign(new Open(), { door: 'back' });
    expect(await inStaging(() => app.get(CommandBus).execute(open))).toMatch('Open back of staging');
  });

  it('does not start with two handlers for one subject', async () => {
    @Handles(Lock)
    class SecondLock extends LockHandler {}
    const twice = await Test.createTestingModule({ ...doors, providers: [...doors.providers, SecondLock] }).compile();
    await expect(serveMessages(twice, new InProcessTransport(), options)).rejects.toThrow('door.lock has two handlers');
    await twice.close();
  });

  it('does not start with a handled class that has no subject', async () => {
    class Nameless extends Command<string> {}
    @CommandHandler(Nameless)
    class NamelessHandler {
      execute(): string {
        return '';
      }
    }
    const nameless = await Test.createTestingModule({ imports: [CqrsModule.forRoot()], providers: [NamelessHandler] }).compile();
    await expect(serveMessages(nameless, new InProcessTransport(), options)).rejects.toThrow('Nameless has a handler but no subject');
    await nameless.close();
  });
});
