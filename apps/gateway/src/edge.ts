import { Injectable } from '@nestjs/common';
import { context } from '@keyledger/kernel';
import { MessageClient, type Fields, type Message, type MessageType, type ResultOf } from '@keyledger/messaging';

/** Sends a request on to the service that answers it; If-Match goes with it. */
@Injectable()
export class Edge {
  constructor(private readonly messages: MessageClient) {}

  send<M extends Message>(type: MessageType<M>, fields: Fields<M>): Promise<ResultOf<M>> {
    const { ifRevision } = context();
    return this.messages.send(type, fields, ifRevision === undefined ? undefined : { context: { ifRevision } });
  }
}
