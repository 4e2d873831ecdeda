import { setTimeout as sleep } from 'node:timers/promises';
import { Body, Controller, Param, Query, Res } from '@nestjs/common';
import { AdvanceClock, bodyOf, ClockView, GetClock, ListSweeps, RunSweep, SetClock, SweepReport } from '@keyledger/contracts';
import { isTransient, type ErrorCode } from '@keyledger/kernel';
import type { FastifyReply } from 'fastify';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';

/** A sweeper that has not answered by then may be dead; asking once more does no harm. */
const answeredWithinMs = 15_000;
const lookedWithinMs = 60_000;
/** Years' worth of work may have fallen due. */
const settledWithinMs = 600_000;
/** For that long nobody has taken it up at all. */
const goneAfterMs = 30_000;
const askAgainAfterMs = 500;
const moving: readonly ErrorCode[] = ['ENVIRONMENT_NOT_FOUND', 'ENVIRONMENT_FORBIDDEN', 'PRODUCTION_CLOCK', 'CLOCK_BACKWARDS'];

/** The clocks of environments, and sweeps. */
@Controller()
export class TimeController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /environments/:name/clock', { needs: 'settings.manage', summary: 'The clock of an environment', answer: ClockView, refuses: ['ENVIRONMENT_NOT_FOUND', 'ENVIRONMENT_FORBIDDEN'] })
  getClock(@Param('name') name: string) {
    return this.edge.send(GetClock, { name });
  }

  @Route('PUT /environments/:name/clock', {
    needs: 'settings.manage', summary: 'Set the clock of a test environment forward; it keeps running from there, and everything due by then is processed', body: bodyOf(SetClock, 'name'), answer: ClockView, refuses: moving,
  })
  async setClock(@Param('name') name: string, @Body() body: SetClock) {
    const clock = await this.edge.send(SetClock, { ...body, name });
    await this.#settle(name);
    return clock;
  }

  @Route('POST /environments/:name/clock/advance', {
    needs: 'settings.manage', summary: 'Advance the clock of a test environment; answers when everything due has been processed', body: bodyOf(AdvanceClock, 'name'), answer: ClockView, refuses: moving,
  })
  async advanceClock(@Param('name') name: string, @Body() body: AdvanceClock) {
    const clock = await this.edge.send(AdvanceClock, { ...body, name });
    await this.#settle(name);
    return clock;
  }

  @Route('POST /licenses/health/sweep', { needs: 'license.revoke', summary: 'Run a sweep now; a dry run reports what it would do', body: bodyOf(RunSweep, 'trigger'), answer: SweepReport, alsoStatus: 202 })
  async sweepLicenses(@Body() body: RunSweep, @Res({ passthrough: true }) reply: FastifyReply): Promise<SweepReport> {
    try {
      return await this.edge.send(RunSweep, { ...body, trigger: 'request' }, { timeoutMs: body.dryRun ? lookedWithinMs : answeredWithinMs });
    } catch (error) {
      if (!isTransient(error) || body.dryRun) throw error;
      const { data: [run] } = await this.edge.send(ListSweeps, { limit: 1 });
      if (run?.state !== 'running') throw error;
      void reply.status(202);
      const { number, startedAt, durationMs, examined, transitions } = run;
      return { number, dryRun: false, state: 'running', startedAt, durationMs, examined, transitions };
    }
  }

  @Route('GET /sweeps', { needs: 'license.read', summary: 'Sweeps, newest first', query: ListSweeps.fields, answer: ListSweeps.answer })
  listSweeps(@Query() query: ListSweeps) {
    return this.edge.send(ListSweeps, query);
  }

  async #settle(environment: string): Promise<void> {
    const until = performance.now() + settledWithinMs;
    for (let takenUpAt = performance.now(); ;) {
      const askedAt = performance.now();
      try {
        await this.edge.send(RunSweep, { trigger: 'clock' }, { environment, timeoutMs: answeredWithinMs });
        return;
      } catch (error) {
        const failedAt = performance.now();
        if (failedAt - askedAt >= answeredWithinMs) takenUpAt = failedAt;
        if (!isTransient(error) || failedAt > until || failedAt - takenUpAt > goneAfterMs) throw error;
        await sleep(askAgainAfterMs);
      }
    }
  }
}
