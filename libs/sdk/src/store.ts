import { sharedByTabs, sharedByNone, type Shared, type WebLocks, type WebStorage } from './shared.ts';

/** Where an instance keeps its state: one text. It may be lost, and is then made anew at the next activation. */
export interface Store {
  /** Null when there is none. */
  read(): Promise<string | null> | string | null;
  /** All or nothing: a reader sees the text before or the text after. */
  write(text: string): Promise<void> | void;
  /** Lets several processes have one state: `heartbeat.start({ leader: 'auto' })`. */
  readonly shared?: Shared;
}

export function memoryStore(text: string | null = null): Store {
  let kept = text;
  return { read: () => kept, write: (next) => void (kept = next) };
}

/** Tabs share it; where the browser has no Web Locks, or the storage is full, all send heartbeats. Where it blocks storage, nothing can be read or written, either. */
export function localStorageStore(name = 'keyledger-license', storage?: WebStorage, locks = (globalThis as { navigator?: { locks?: WebLocks } }).navigator?.locks): Store {
  let found: WebStorage | null | undefined;
  try {
    found = storage ?? (globalThis as { localStorage?: WebStorage | null }).localStorage;
    if (found === null) throw new Error('The browser has switched localStorage off');
  } catch (error) {
    const blocked = () => Promise.reject(error);
    return { read: blocked, write: blocked, shared: sharedByNone(blocked) };
  }
  if (!found) throw new Error('There is no localStorage here: give one, or take another store');
  const kept = found;
  let fails = false;
  const write = (text: string) => {
    fails = true;
    kept.setItem(name, text);
    fails = false;
  };
  return { read: () => kept.getItem(name), write, shared: sharedByTabs(name, kept, locks, () => fails || !locks) };
}

// ---- what is in it ----

const hex = (bytes: ArrayBuffer): string => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, '0')).join('');
const bytesOf = (text: string): Uint8Array<ArrayBuffer> => new Uint8Array(new TextEncoder().encode(text));

/**
 * An HMAC-SHA-256 under a key made from the fingerprint and the license key. It detects a state that was edited, or that another machine made.
 * Anyone with both can forge it: what a license allows is proven by signatures, this guards the count of the time.
 */
export async function sealerFor(fingerprint: string, licenseKey: string): Promise<{ seal(text: string): Promise<string>; open(sealed: string): Promise<string | undefined> }> {
  const secret = await crypto.subtle.digest('SHA-256', bytesOf(JSON.stringify(['keyledger-sdk-state-1', fingerprint, licenseKey])));
  const key = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  const mac = async (text: string) => hex(await crypto.subtle.sign('HMAC', key, bytesOf(text)));
  return {
    seal: async (text) => `${await mac(text)}\n${text}`,
    open: async (sealed) => {
      const text = sealed.slice(65);
      return sealed === `${await mac(text)}\n${text}` ? text : undefined;
    },
  };
}

/** A license key as it is sent, however it was typed: the server, too, looks only at letters and digits of ASCII, and not at their case. */
export const spelled = (key: string): string => key.replace(/[^0-9A-Za-z]+/g, '-').replace(/^-|-$/g, '').toUpperCase();

/** The same text for all spellings of one key: as the server looks it up. */
export const sameKey = (key: string): string => spelled(key).replaceAll('-', '').replaceAll('O', '0').replace(/[IL]/g, '1');

/** 43 letters. A hash has a fixed length and tells a reader nothing about the machine. */
export async function hashed(...parts: readonly string[]): Promise<string> {
  const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', bytesOf(JSON.stringify(['keyledger-fingerprint-1', ...parts]))));
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');
}
