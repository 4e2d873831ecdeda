import { describe, expect, it } from '@jest/globals';
import jsQR from 'jsqr';
import type { LicenseAnswer } from './api.ts';
import { requestOf } from './request.ts';

const license = {
  installationId: 'f3c1c1f2-7a50-4a44-9d8e-2f4be94a4f1d', hardwareId: 'kQ3-x'.repeat(9).slice(0, 43), deploymentId: null, deploymentMode: 'on-premises', serialNumber: null, keyPrefix: 'KL7Q-M2X',
  productId: null, agentVersion: '0.1.0', now: '2026-07-01T12:00:00.000Z',
} as LicenseAnswer;

describe('A request for a license file', () => {
  it('names what the file must be made for, and what is not known it leaves out', () => {
    expect(requestOf(license).text.split('\n')).toEqual([
      'License request', `Hardware ID: ${license.hardwareId}`, `Installation ID: ${license.installationId}`, 'Deployment mode: on-premises', 'License key: KL7Q-M2X…', 'Agent: 0.1.0', 'Requested: 2026-07-01T12:00:00.000Z',
    ]);
  });

  it.each(['on-premises', 'Küche', '厨房'])('says the same as a picture (%s)', (deploymentMode) => {
    const { text, qr } = requestOf({ ...license, deploymentMode });
    const { size = 0, path = '' } = qr ?? {};
    const [scale, edge] = [3, 4];
    const width = (size + 2 * edge) * scale;
    const dark = new Set([...path.matchAll(/M(\d+) (\d+)h1v1h-1z/g)].map(([, x, y]) => `${x} ${y}`));
    const moduleAt = (n: number) => Math.floor(n / scale) - edge;
    const pixels = Uint8ClampedArray.from({ length: width * width * 4 }, (_, n) => {
      const [x, y] = [moduleAt(Math.floor(n / 4) % width), moduleAt(Math.floor(n / 4 / width))];
      return n % 4 !== 3 && dark.has(`${x} ${y}`) ? 0 : 255;
    });
    expect(jsQR.default(pixels, width, width)?.data).toBe(text);
  });

  it('is no picture when it would be one that nobody can read', () => {
    expect(requestOf({ ...license, deploymentId: 'd'.repeat(1_200) })).toMatchObject({ text: expect.stringContaining('dddd'), qr: null });
  });
});
