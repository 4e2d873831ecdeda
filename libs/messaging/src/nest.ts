import 'reflect-metadata';
import type { INestApplicationContext } from '@nestjs/common';
import { ModulesContainer } from '@nestjs/core';
import type { InstanceWrapper } from '@nestjs/core/injector/instance-wrapper.js';
import { CommandBus, CommandHandler, Query, QueryBus, QueryHandler, type ICommandHandler, type IQueryHandler } from '@nestjs/cqrs';
import type { Message, MessageType, ResultOf } from './message.ts';
import { handlerOf, type ServeOptions } from './server.ts';
import type { Transport } from './transport.ts';

type Handler<M extends Message> = new (...dependencies: never[]) => { execute(message: M): ResultOf<M> | Promise<ResultOf<M>> };

const handledTypes = Symbol('handled message classes');
const isQuery = (type: MessageType): boolean => type.prototype instanceof Query;

/** `@Handles(AssignLicense, RevokeLicense, …)`: @nestjs/cqrs' CommandHandler and QueryHandler for any number of message classes. */
export const Handles = <T extends readonly MessageType[]>(...types: T) => (target: Handler<InstanceType<T[number]>>): void => {
  for (const type of types) (isQuery(type) ? QueryHandler(type) : CommandHandler(type))(target);
  Reflect.defineMetadata(handledTypes, types, target);
};

/**
 * Serves on the transport every message that the application has a handler for, through its CommandBus and QueryBus; returns their subjects.
 * Call it after the application has been initialised and before it reports that it is ready.
 */
export async function serveMessages(app: INestApplicationContext, transport: Transport, options: ServeOptions): Promise<readonly string[]> {
  const commands = app.get(CommandBus, { strict: false });
  const queries = app.get(QueryBus, { strict: false });
  const served = new Map<string, MessageType>();
  for (const [type, wrapper] of handlersIn(app)) {
    if (!type.subject) throw new Error(`${type.name} has a handler but no subject`);
    if (served.has(type.subject)) throw new Error(`${type.subject} has two handlers; the second is ${String(wrapper.name)}`);
    served.set(type.subject, type);
    // Without this, each bus registers only one message class per handler.
    if (isQuery(type)) queries.bind(wrapper as InstanceWrapper<IQueryHandler>, idOf(type));
    else commands.bind(wrapper as InstanceWrapper<ICommandHandler>, idOf(type));
    await transport.serve(type.subject, options.queue, handlerOf(type, executeOf(type, wrapper), options));
  }
  return [...served.keys()];

  function executeOf(type: MessageType, wrapper: InstanceWrapper): (message: Message) => unknown {
    // The bus adds 0.2 µs to a direct message's 1.4 and nothing that the hot path needs.
    if (type.direct && wrapper.isDependencyTreeStatic()) return (message) => wrapper.instance.execute(message);
    return (message) => (isQuery(type) ? queries.execute(message) : commands.execute(message));
  }
}

function* handlersIn(app: INestApplicationContext): Iterable<[MessageType, InstanceWrapper]> {
  for (const module of app.get(ModulesContainer, { strict: false }).values()) {
    for (const wrapper of module.providers.values()) {
      const handler: unknown = wrapper.instance?.constructor ?? wrapper.metatype;
      if (typeof handler === 'function') for (const type of typesOf(handler)) yield [type, wrapper];
    }
  }
}

/** @nestjs/cqrs does not export the names of its metadata. */
function typesOf(handler: object): readonly MessageType[] {
  const several = Reflect.getMetadata(handledTypes, handler) as readonly MessageType[] | undefined;
  const one = ['__commandHandler__', '__queryHandler__'].map((key) => Reflect.getMetadata(key, handler) as MessageType | undefined);
  return several ?? one.filter((type) => type !== undefined);
}

const idOf = (type: MessageType): string => (Reflect.getMetadata(isQuery(type) ? '__query__' : '__command__', type) as { id: string }).id;
