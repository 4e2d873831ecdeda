import { ListSweeps, RunSweep } from '@keyledger/contracts';
import { Handles } from '@keyledger/messaging';
import { Runs } from './runs.ts';
import { Sweeper } from './sweeper.ts';

@Handles(RunSweep)
export class SweepCommand {
  constructor(private readonly sweeper: Sweeper) {}

  execute({ dryRun, trigger }: RunSweep) {
    return dryRun ? this.sweeper.dryRun() : this.sweeper.runInTurn(trigger);
  }
}

@Handles(ListSweeps)
export class SweepList {
  constructor(private readonly runs: Runs) {}

  execute({ limit = 25, cursor }: ListSweeps) {
    return this.runs.list(limit, cursor);
  }
}
