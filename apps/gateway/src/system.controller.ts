import { Controller, Res } from '@nestjs/common';
import { Health, Metrics } from '@keyledger/observability';
import type { FastifyReply } from 'fastify';
import Type from 'typebox';
import { ApiDocument } from './docs.ts';
import { Route } from './operation.ts';

const healthAnswer = Type.Object({
  status: Type.String({ enum: ['ok', 'unavailable'] }),
  checks: Type.Record(Type.String(), Type.Object({ status: Type.String({ enum: ['ok', 'failed'] }), detail: Type.Optional(Type.String()) })),
});

/** For operators and tools: health, metrics and the description of this API. */
@Controller()
export class SystemController {
  constructor(private readonly health: Health, private readonly metrics: Metrics, private readonly document: ApiDocument) {}

  @Route('GET /health/live', { needs: 'public', summary: 'Liveness', answer: healthAnswer, alsoStatus: 503 })
  async getLiveness(@Res({ passthrough: true }) reply: FastifyReply) {
    return withStatus(await this.health.live(), reply);
  }

  @Route('GET /health/ready', { needs: 'public', summary: 'Readiness, including read-model lag', answer: healthAnswer, alsoStatus: 503 })
  async getReadiness(@Res({ passthrough: true }) reply: FastifyReply) {
    return withStatus(await this.health.ready(), reply);
  }

  @Route('GET /metrics', { needs: 'public', summary: 'Metrics in Prometheus format', answer: Type.String(), contentType: 'text/plain' })
  async getMetrics(@Res({ passthrough: true }) reply: FastifyReply) {
    void reply.header('Content-Type', this.metrics.contentType);
    return this.metrics.expose();
  }

  @Route('GET /openapi.json', { needs: 'public', summary: 'This API as an OpenAPI 3.1 document', answer: Type.Object({}, { additionalProperties: true }) })
  getOpenApi(@Res({ passthrough: true }) reply: FastifyReply) {
    void reply.header('Content-Type', 'application/json; charset=utf-8');
    return this.document.json();
  }
}

function withStatus<T extends { status: string }>(answer: T, reply: FastifyReply): T {
  if (answer.status !== 'ok') void reply.status(503);
  return answer;
}
