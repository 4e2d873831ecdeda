import { Body, Controller, Param, Query } from '@nestjs/common';
import { ApiKeyView, bodyOf, CreateApiKey, DeleteApiKey, GetApiKey, ListApiKeys, ListEnvironments, RotateApiKey } from '@keyledger/contracts';
import { context, type ApiKeyId } from '@keyledger/kernel';
import Type from 'typebox';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';
import { IdOf } from './params.ts';

const ApiKeyParam = () => Param('id', IdOf('key', 'API_KEY_NOT_FOUND'));

@Controller()
export class AccessController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /me', {
    needs: 'any-api-key', summary: 'The caller: environment, role, permissions',
    answer: Type.Object({ id: Type.String(), environment: Type.String(), role: Type.Union([Type.String(), Type.Null()]), permissions: Type.Array(Type.String()) }),
  })
  getCaller() {
    const { environment, actor: { id, role, permissions } } = context();
    return { id, environment, role: role ?? null, permissions };
  }

  @Route('GET /environments', { needs: 'any-api-key', summary: 'The environments of this installation', answer: ListEnvironments.answer })
  listEnvironments() {
    return this.edge.send(ListEnvironments, {});
  }

  @Route('POST /api-keys', {
    needs: 'access.manage', summary: 'Create an API key; its secret is shown once', body: bodyOf(CreateApiKey), answer: CreateApiKey.answer, status: 201, versioned: true,
    refuses: ['ENVIRONMENT_NOT_FOUND', 'ENVIRONMENT_FORBIDDEN', 'PERMISSION_DENIED', 'EXPIRY_IN_PAST'],
  })
  createApiKey(@Body() body: CreateApiKey) {
    return this.edge.send(CreateApiKey, body);
  }

  @Route('GET /api-keys', { needs: 'access.manage', summary: 'API keys of the environment, without their secrets', query: ListApiKeys.fields, answer: ListApiKeys.answer })
  listApiKeys(@Query() query: ListApiKeys) {
    return this.edge.send(ListApiKeys, query);
  }

  @Route('GET /api-keys/:id', { needs: 'access.manage', summary: 'One API key', answer: ApiKeyView, versioned: true, refuses: ['API_KEY_NOT_FOUND'] })
  getApiKey(@ApiKeyParam() apiKeyId: ApiKeyId) {
    return this.edge.send(GetApiKey, { apiKeyId });
  }

  @Route('POST /api-keys/:id/rotate', { needs: 'access.manage', summary: 'Rotate the secret; the old one stops working at once', answer: RotateApiKey.answer, versioned: true, refuses: ['API_KEY_NOT_FOUND'] })
  rotateApiKey(@ApiKeyParam() apiKeyId: ApiKeyId) {
    return this.edge.send(RotateApiKey, { apiKeyId });
  }

  @Route('DELETE /api-keys/:id', { needs: 'access.manage', summary: 'Delete; it stops working with the next request', versioned: true, refuses: ['API_KEY_NOT_FOUND'] })
  async deleteApiKey(@ApiKeyParam() apiKeyId: ApiKeyId) {
    await this.edge.send(DeleteApiKey, { apiKeyId });
  }
}
