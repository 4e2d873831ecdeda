import { describe, expect, it } from '@jest/globals';
import { Metrics, type ProjectionLag } from './metrics.ts';

describe('Metrics', () => {
  const fresh = () => new Metrics('gateway', { processMetrics: false });
  const line = (text: string, start: string) => text.split('\n').filter((each) => each.startsWith(start));

  it('count requests by route, method and status, with their duration', async () => {
    const metrics = fresh();
    const observe = metrics.requests('POST', '/license/validate');
    observe(200, 0.002);
    observe(200, 0.2);
    observe(429, 0.001);
    const text = await metrics.expose();
    expect(line(text, 'keyledger_http_request_duration_seconds_count')).toEqual([
      'keyledger_http_request_duration_seconds_count{service="gateway",method="POST",route="/license/validate",status="200"} 2',
      'keyledger_http_request_duration_seconds_count{service="gateway",method="POST",route="/license/validate",status="429"} 1',
    ]);
    expect(text).toContain('keyledger_http_request_duration_seconds_bucket{le="0.0025",service="gateway",method="POST",route="/license/validate",status="200"} 1');
  });

  it('count decisions, messages and appends', async () => {
    const metrics = fresh();
    for (const code of ['VALID', 'LICENSE_EXPIRED', 'VALID']) metrics.decision(code);
    metrics.message('license.assign', 'answered');
    metrics.message('license.assign', 'failed');
    metrics.message('license.assign', 'failed');
    metrics.append(0.004);
    metrics.signature('lease');
    const text = await metrics.expose();
    expect(text).toContain('keyledger_decisions_total{code="VALID",service="gateway"} 2');
    expect(text).toContain('keyledger_signatures_total{statement="lease",service="gateway"} 1');
    expect(text).toContain('keyledger_decisions_total{code="LICENSE_EXPIRED",service="gateway"} 1');
    expect(text).toContain('keyledger_messages_total{subject="license.assign",outcome="answered",service="gateway"} 1');
    expect(text).toContain('keyledger_messages_total{subject="license.assign",outcome="failed",service="gateway"} 2');
    expect(text).toContain('keyledger_append_duration_seconds_count{service="gateway"} 1');
  });

  it('tell what sweeps have brought about, and what they have left', async () => {
    const metrics = fresh();
    metrics.sweep('staging', 0.2, { LicenseExpired: 3, ExpiryReminderDue: 1 });
    metrics.sweep('staging', 2, { LicenseExpired: 2 });
    metrics.sweepBacklog('staging', 7, 90);
    metrics.sweepBacklog('staging', 0, 0);
    metrics.sweepBacklog('production', 4, 12.5);
    const text = await metrics.expose();
    expect(text).toContain('keyledger_sweep_transitions_total{environment="staging",type="LicenseExpired",service="gateway"} 5');
    expect(text).toContain('keyledger_sweep_duration_seconds_count{service="gateway",environment="staging"} 2');
    expect(text).toContain('keyledger_sweep_due{environment="staging",service="gateway"} 0');
    expect(text).toContain('keyledger_sweep_lag_seconds{environment="production",service="gateway"} 12.5');
  });

  it('say where a number is counted only up to a limit', async () => {
    expect(line(await fresh().expose(), '# HELP').filter((help) => help.includes('counted up to 10,000')).map((help) => help.split(' ')[2])).toEqual(['keyledger_sweep_due', 'keyledger_outbox_pending']);
  });

  it('ask how far projections are behind at every scrape, and forget those that are gone', async () => {
    const metrics = fresh();
    let lags: ProjectionLag[] = [{ environment: 'staging', projection: 'license-list', positions: 7, seconds: 1.5, parked: 2 }];
    metrics.watchProjections(async () => lags);
    const text = await metrics.expose();
    const labels = '{environment="staging",projection="license-list",service="gateway"}';
    expect(text).toContain(`keyledger_projection_lag_positions${labels} 7`);
    expect(text).toContain(`keyledger_projection_lag_seconds${labels} 1.5`);
    expect(text).toContain(`keyledger_parked_streams${labels} 2`);
    lags = [];
    expect(line(await metrics.expose(), 'keyledger_projection_lag_positions{')).toEqual([]);
  });

  it('leave that out while nobody can say it, and tell everything else', async () => {
    const metrics = fresh();
    metrics.append(0.004);
    metrics.watchProjections(async () => { throw new Error('the database is away'); });
    const text = await metrics.expose();
    expect(line(text, 'keyledger_projection_lag_positions{')).toEqual([]);
    expect(text).toContain('keyledger_append_duration_seconds_count{service="gateway"} 1');
  });

  it('tell about the process itself', async () => {
    const metrics = new Metrics('gateway');
    expect(await metrics.expose()).toMatch(/process_cpu_user_seconds_total\{service="gateway"\} \d[\s\S]*nodejs_eventloop_lag_p99_seconds/);
    expect(metrics.contentType).toMatch('text/plain');
  });
});
