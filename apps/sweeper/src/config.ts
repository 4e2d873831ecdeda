export interface SweeperConfig {
  /** KEYLEDGER_SWEEP_SECONDS: how often to check for due work, in real time; 0: only on request. */
  intervalMs: number;
}

export function sweeperConfig(env: NodeJS.ProcessEnv = process.env): SweeperConfig {
  const seconds = Number(env['KEYLEDGER_SWEEP_SECONDS'] || 10);
  if (!(seconds >= 0 && seconds <= 86_400)) throw new Error('KEYLEDGER_SWEEP_SECONDS must be 0 to 86400');
  return { intervalMs: seconds * 1000 };
}
