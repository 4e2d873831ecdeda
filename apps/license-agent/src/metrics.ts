import type { LicenseAnswer } from './api.ts';

/** Prometheus, text format 0.0.4. Never a license key or a fingerprint. */
export function metricsOf(answer: LicenseAnswer): string {
  const { daysRemaining, status, lastValidationAt, usage, offlineGraceSeconds, problems, usageQueued, server } = answer;
  const states = ['none', 'active', 'grace', 'restricted', 'expired', 'suspended', 'inactive', 'revoked', 'locked'] as const;
  return [
    gauge('license_days_remaining', 'Whole days until the license expires; absent when it never does', daysRemaining),
    gauge('license_state', 'State of the license: 1 for the one it is in', ...states.map((state): Sample => [{ state }, state === status ? 1 : 0])),
    gauge('license_last_validation_timestamp_seconds', 'When something signed was last heard of the license', lastValidationAt === null ? null : Date.parse(lastValidationAt) / 1000),
    gauge('license_quota_used', 'What a quota is used', ...usage.map(({ meter, used }): Sample => [{ metric: meter }, used])),
    gauge('license_quota_limit', 'What a quota allows', ...usage.map(({ meter, limit }): Sample => [{ metric: meter }, limit])),
    gauge('license_offline_grace_seconds', 'For how long it works without the license server; absent when for ever', offlineGraceSeconds),
    gauge('license_problems', 'Problems that need attention', ...[...Map.groupBy(problems, ({ code }) => code)].map(([code, all]): Sample => [{ code }, all.length])),
    gauge('license_usage_queued', 'Readings that wait to be delivered', usageQueued),
    gauge('license_stream_connected', 'Changes of the license arrive as they happen', server.connected ? 1 : 0),
  ].join('');
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number | null];

function gauge(name: string, help: string, ...samples: readonly (number | null | Sample)[]): string {
  const lines = samples.map((sample) => (Array.isArray(sample) ? (sample as Sample) : ([{}, sample as number | null] as const))).filter(([, value]) => value !== null)
    .map(([labels, value]) => `${name}${textOf(labels)} ${value}\n`);
  return `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${lines.join('')}`;
}

function textOf(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`);
  return pairs.length > 0 ? `{${pairs.join(',')}}` : '';
}
