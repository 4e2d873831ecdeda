import type { INestApplicationContext } from '@nestjs/common';
import type { Health } from '@keyledger/observability';
import { Schedule } from './schedule.ts';

export { sweeperConfig, type SweeperConfig } from './config.ts';
export { SweeperModule } from './sweeper.module.ts';

/** Readiness reports overdue work as a detail. Call once. */
export function watchSweeps(service: INestApplicationContext, health: Health): void {
  const schedule = service.get(Schedule);
  health.add('ready', 'sweep', () => schedule.word());
}
