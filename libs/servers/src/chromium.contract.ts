import { afterAll, beforeAll, describe, it } from '@jest/globals';
import { chromium, type Browser } from 'playwright-core';
import { obtain } from './obtain.ts';

/** Lets it run as root in containers, without network requests of its own. */
const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** A suite with its own browser, available from its first hook on; without a browser, a skipped test says so. */
export function describeInChromium(title: string, suite: (browser: () => Browser) => void): void {
  describe(`${title} (Chromium)`, () => {
    const launch = obtain('chromium');
    if (!launch || !('path' in launch)) {
      it.skip(`Chromium is not here: NOTHING of ${title} was tested`, () => undefined);
      return;
    }
    let running: Browser | undefined;
    beforeAll(async () => {
      running = await chromium.launch({ executablePath: launch.path, args });
    }, 60_000);
    afterAll(() => running?.close(), 60_000);
    suite(() => {
      if (!running) throw new Error('Chromium is started in beforeAll; ask for it in a test or a hook');
      return running;
    });
  });
}
