import { Body, Controller, Param, Query, Res, type PipeTransform } from '@nestjs/common';
import {
  ActivateSigningKey, bodyOf, CreateSigningKey, GetKeySet, GetRootKeys, KeySet, ListSigningKeys, RetireSigningKey, RevokeSigningKey, RootKeys, SigningKeyView,
} from '@keyledger/contracts';
import { refuse, type ErrorCode } from '@keyledger/kernel';
import type { FastifyReply } from 'fastify';
import { Edge } from './edge.ts';
import * as examples from './examples.ts';
import { Route } from './operation.ts';

/** Anything but a thumbprint is answered as not found. */
const Kid: PipeTransform = {
  transform(value: unknown) {
    if (typeof value !== 'string' || !/^[A-Za-z0-9_-]{43}$/.test(value)) throw refuse('SIGNING_KEY_NOT_FOUND');
    return value;
  },
};
const KidParam = () => Param('kid', Kid);
const stateful: readonly ErrorCode[] = ['SIGNING_KEY_NOT_FOUND', 'INVALID_TRANSITION'];
/** Caches may keep public keys for a minute; after a rotation a verifier that meets an unknown key asks again. */
const cacheable = { 'Cache-Control': 'public, max-age=60', Vary: 'X-Environment, Origin' };
const wellKnown = { needs: 'public', ofEnvironment: true, refuses: ['UNAVAILABLE', 'TRY_AGAIN'] } as const;

/** Signing keys, and what verifiers need of them. */
@Controller()
export class SigningController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /signing-keys', { needs: 'signing.manage', summary: 'Signing keys, newest first', query: ListSigningKeys.fields, answer: ListSigningKeys.answer })
  listSigningKeys(@Query() query: ListSigningKeys) {
    return this.edge.send(ListSigningKeys, query);
  }

  @Route('POST /signing-keys', {
    needs: 'signing.manage', summary: 'Create a key; it signs nothing until activated', body: bodyOf(CreateSigningKey), answer: SigningKeyView, status: 201, refuses: ['UNAVAILABLE'],
    example: examples.createSigningKey,
  })
  createSigningKey(@Body() body: CreateSigningKey) {
    return this.edge.send(CreateSigningKey, body);
  }

  @Route('POST /signing-keys/:kid/activate', {
    needs: 'signing.manage', summary: 'Activate; the previous key retires, and its signatures stay valid', body: bodyOf(ActivateSigningKey, 'kid'), answer: SigningKeyView,
    refuses: [...stateful, 'SIGNING_KEY_NOT_CERTIFIED', 'CERTIFICATE_INVALID'],
  })
  activateSigningKey(@KidParam() kid: string, @Body() body: ActivateSigningKey) {
    return this.edge.send(ActivateSigningKey, { ...body, kid });
  }

  @Route('POST /signing-keys/:kid/retire', { needs: 'signing.manage', summary: 'Retire; its signatures stay valid', answer: SigningKeyView, refuses: stateful })
  retireSigningKey(@KidParam() kid: string) {
    return this.edge.send(RetireSigningKey, { kid });
  }

  @Route('POST /signing-keys/:kid/revoke', { needs: 'signing.manage', summary: 'Revoke permanently; its signatures become invalid', answer: SigningKeyView, refuses: stateful })
  revokeSigningKey(@KidParam() kid: string) {
    return this.edge.send(RevokeSigningKey, { kid });
  }

  @Route('GET /.well-known/jwks.json', { ...wellKnown, summary: 'Public keys of the environment, active and retired (RFC 7517), each with its certificate from the root', answer: KeySet, example: examples.keySet })
  getKeySet(@Res({ passthrough: true }) reply: FastifyReply) {
    return this.#cacheable(reply, this.edge.send(GetKeySet, {}));
  }

  @Route('GET /.well-known/keyledger-root.json', { ...wellKnown, summary: 'The offline root key of the environment, to pin', answer: RootKeys, example: examples.rootKeys })
  getRootKeys(@Res({ passthrough: true }) reply: FastifyReply) {
    return this.#cacheable(reply, this.edge.send(GetRootKeys, {}));
  }

  /** Only an answer is cached, never a refusal. */
  async #cacheable<T>(reply: FastifyReply, answer: Promise<T>): Promise<T> {
    const keys = await answer;
    void reply.headers(cacheable);
    return keys;
  }
}
