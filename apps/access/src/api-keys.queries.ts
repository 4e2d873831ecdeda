import { ListApiKeys } from '@keyledger/contracts';
import { ApiKey, apiKeyView, type ApiKeyState } from '@keyledger/domain';
import type { ApiKeyId } from '@keyledger/kernel';
import { Handles } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { page, projection, Projectors } from '@keyledger/read-models';
import { defineEntity, p } from '@mikro-orm/sql';
import { Injectable } from '@nestjs/common';
import { AccessStreams } from './streams.ts';

export const ApiKeyEntity = defineEntity({
  name: 'AccessApiKey', tableName: 'access_api_key',
  properties: { id: p.string().primary(), revision: p.integer(), secretHash: p.string().index(), root: p.boolean(), createdAt: p.string() },
  indexes: [{ properties: ['createdAt', 'id'] }],
});

export const apiKeys = projection({
  name: 'access-api-key', version: 1, source: ApiKey, entity: ApiKeyEntity,
  row: (key: ApiKeyState | null, { id, revision }) =>
    (key && !key.deleted ? { id, revision, secretHash: key.secretHash, root: key.root, createdAt: key.createdAt } : null),
});

@Injectable()
export class ApiKeyTable {
  constructor(private readonly projectors: Projectors) {}

  async bySecretHash(hash: string): Promise<ApiKeyId | undefined> {
    const database = await this.projectors.current();
    const { rows: [row] } = await database.run<{ id: ApiKeyId }>('select id from access_api_key where secret_hash = ?', [hash]);
    return row?.id;
  }
}

@Handles(ListApiKeys)
export class ApiKeyList {
  constructor(private readonly streams: AccessStreams, private readonly projectors: Projectors, private readonly log: Log) {}

  async execute({ limit = 25, cursor }: ListApiKeys) {
    const { data, page: position } = await this.projectors.listing((database) => {
      const query = database.sql<{ access_api_key: { id: ApiKeyId } }>().selectFrom('access_api_key').select('id');
      return page(query, { createdAt: { column: 'created_at', kind: 'text' } }, { sort: '-createdAt', limit, cursor });
    });
    const view = (key: ApiKeyState | null, revision: number) => (key && !key.deleted ? { ...apiKeyView(key), revision } : undefined);
    return { data: await this.streams.apiKeys.loadAll(data.map(({ id }) => id), view, this.log), page: position };
  }
}
