import { Injectable } from '@nestjs/common';
import type { Static, TProperties, TSchema } from 'typebox';
import type { MessageClass } from '@keyledger/contracts';
import { context } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';

/** Sends a request on to the service that answers it; If-Match goes with it. */
@Injectable()
export class Edge {
  constructor(private readonly messages: MessageClient) {}

  send<F extends TProperties, A extends TSchema, M>(type: MessageClass<F, A, M>, fields: object): Promise<Static<A>> {
    const { ifRevision } = context();
    return this.messages.send(type, fields, ifRevision === undefined ? undefined : { context: { ifRevision } });
  }
}
