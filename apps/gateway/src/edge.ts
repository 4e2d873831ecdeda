import { Injectable } from '@nestjs/common';
import { context } from '@keyledger/kernel';
import { MessageClient, type Fields, type Message, type MessageType, type ResultOf, type SendOptions } from '@keyledger/messaging';

/** Sends a request on to the service that answers it; If-Match goes with it. */
@Injectable()
export class Edge {
  constructor(private readonly messages: MessageClient) {}

  send<M extends Message>(type: MessageType<M>, fields: Fields<M>, options?: Pick<SendOptions, 'environment' | 'timeoutMs'>): Promise<ResultOf<M>> {
    const { ifRevision } = context();
    return this.messages.send(type, fields, ifRevision === undefined ? options : { ...options, context: { ifRevision } });
  }
}
