import { encode } from 'uqr';
import type { LicenseAnswer, RequestAnswer } from './api.ts';

/** All a vendor needs to make a license file for this machine. For people to read and carry; it names no secret. */
export function requestOf({ installationId, hardwareId, deploymentId, deploymentMode, serialNumber, keyPrefix, productId, agentVersion, now }: LicenseAnswer): RequestAnswer {
  const lines = [
    ['Hardware ID', hardwareId], ['Installation ID', installationId], ['Deployment ID', deploymentId], ['Deployment mode', deploymentMode], ['Product ID', productId], ['Serial number', serialNumber],
    ['License key', keyPrefix === null ? null : `${keyPrefix}…`], ['Agent', agentVersion], ['Requested', now],
  ] as const;
  const text = ['License request', ...lines.filter(([, value]) => value !== null).map(([label, value]) => `${label}: ${value}`)].join('\n');
  return { text, qr: qrOf(text) };
}

/** More than any request needs; a code of more modules cannot be read off a screen. Bytes. */
const longest = 1_200;

function qrOf(text: string): RequestAnswer['qr'] {
  if (Buffer.byteLength(text) > longest) return null;
  const { size, data } = encode(text, { ecc: 'L', border: 0 });
  return { size, path: data.map((row, y) => row.map((isDark, x) => (isDark ? `M${x} ${y}h1v1h-1z` : '')).join('')).join('') };
}
