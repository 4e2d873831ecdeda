import { Body, Controller, Param, Query } from '@nestjs/common';
import { AdvanceClock, bodyOf, ClockView, GetClock, ListSweeps, RunSweep, SetClock, SweepReport } from '@keyledger/contracts';
import type { ErrorCode } from '@keyledger/kernel';
import { Edge } from './edge.ts';
import { Route } from './operation.ts';

/** Whatever has fallen due is done before the answer, and that may be a year's worth. */
const sweepWithin = { timeoutMs: 600_000 };
const moving: readonly ErrorCode[] = ['ENVIRONMENT_NOT_FOUND', 'ENVIRONMENT_FORBIDDEN', 'PRODUCTION_CLOCK', 'CLOCK_BACKWARDS'];

/** What time it is in an environment, and what time has brought about. */
@Controller()
export class TimeController {
  constructor(private readonly edge: Edge) {}

  @Route('GET /environments/:name/clock', { needs: 'settings.manage', summary: 'What time it is in an environment', answer: ClockView, refuses: ['ENVIRONMENT_NOT_FOUND', 'ENVIRONMENT_FORBIDDEN'] })
  getClock(@Param('name') name: string) {
    return this.edge.send(GetClock, { name });
  }

  @Route('PUT /environments/:name/clock', {
    needs: 'settings.manage', summary: 'Put the clock of a test environment forward; it ticks on from there, and everything that falls due by it is done', body: bodyOf(SetClock, 'name'), answer: ClockView, refuses: moving,
  })
  async setClock(@Param('name') name: string, @Body() body: SetClock) {
    const clock = await this.edge.send(SetClock, { ...body, name });
    await this.#settle(name);
    return clock;
  }

  @Route('POST /environments/:name/clock/advance', {
    needs: 'settings.manage', summary: 'Let time pass in a test environment: answered when everything that fell due has been done', body: bodyOf(AdvanceClock, 'name'), answer: ClockView, refuses: moving,
  })
  async advanceClock(@Param('name') name: string, @Body() body: AdvanceClock) {
    const clock = await this.edge.send(AdvanceClock, { ...body, name });
    await this.#settle(name);
    return clock;
  }

  @Route('POST /licenses/health/sweep', { needs: 'license.revoke', summary: 'Make explicit what time has brought about, now; a dry run says what that would be', body: bodyOf(RunSweep, 'trigger'), answer: SweepReport })
  sweepLicenses(@Body() body: RunSweep) {
    return this.edge.send(RunSweep, { ...body, trigger: 'request' }, sweepWithin);
  }

  @Route('GET /sweeps', { needs: 'license.read', summary: 'Runs of the sweep, newest first', query: ListSweeps.fields, answer: ListSweeps.answer })
  listSweeps(@Query() query: ListSweeps) {
    return this.edge.send(ListSweeps, query);
  }

  async #settle(environment: string): Promise<void> {
    await this.edge.send(RunSweep, { trigger: 'clock' }, { ...sweepWithin, environment });
  }
}
