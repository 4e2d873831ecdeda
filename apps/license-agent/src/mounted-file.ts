import { readFile } from 'node:fs/promises';
import { fileTypeOf, maxLength } from '@keyledger/license-file';
import type { Clock } from '@keyledger/sdk';
import { Refused } from './api.ts';
import { hashOf, type Kept } from './data-dir.ts';
import type { Holder } from './holder.ts';
import type { Logger } from './open-license.ts';
import { refusedIn, retryMs, saysNothing, type Problems } from './refusals.ts';
import type { Turns } from './turns.ts';

/** What a mounted file needs of its agent. */
interface Port {
  readonly path: string;
  readonly holder: Holder;
  readonly clock: Clock;
  readonly log: Logger;
  readonly problems: Problems;
  readonly turns: Turns;
  /** Takes a license file or a key, or rejects. */
  apply(text: string): Promise<unknown>;
}

/** The file at `LICENSE_FILE_PATH`: when it is read, and when what it holds is tried. */
export class MountedFile {
  readonly #port: Port;
  /** `refused`: the license in use then, and when the file is tried again (by `mono`). */
  #read: { readonly hash: string | null; readonly checkedAt: string | null; readonly refused: { readonly source: Kept['source']; readonly wait: number; readonly retryAt: number } | null } = { hash: null, checkedAt: null, refused: null };

  constructor(port: Port) {
    this.#port = port;
  }

  get path(): string {
    return this.#port.path;
  }

  get checkedAt(): string | null {
    return this.#read.checkedAt;
  }

  /**
   * Looks at the content: mounted files change by links, which give no notice. A failure is reported, and the file tried again like a configured key (a
   * renewal may be early, a clock late, a seat taken), until it is accepted, or another license is.
   */
  async poll({ atOnce = false } = {}): Promise<void> {
    const { path, holder, clock, log, problems, turns, apply } = this.#port;
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => void problems.report('file', 'LICENSE_FILE_MISSING', `${path} cannot be read (${error.code ?? 'unknown error'})`));
    if (text === undefined) return void (this.#read = { ...this.#read, hash: null, refused: null });
    // A key would wait for the seats being given back, and all other changes with it: it is read again at the next poll.
    if (turns.isGivingBack && !atOnce && !fileTypeOf(text)) return;
    const hash = hashOf(text);
    const isKnown = hash === this.#read.hash;
    const refused = isKnown ? this.#read.refused : null;
    this.#read = { hash, checkedAt: new Date(holder.now).toISOString(), refused };
    const { mono } = clock.read();
    const { source } = holder.kept;
    const gaveWay = refused !== null && refused.source !== source;
    if (refused ? !gaveWay && !atOnce && mono < refused.retryAt : isKnown) return;
    try {
      if (hash !== holder.kept.seen.file) {
        if (text.length > maxLength * 2) throw new Refused('LICENSE_UNREADABLE', 'The text is too large for a license');
        if (!gaveWay) await apply(text);
        await holder.keep({ seen: { ...holder.kept.seen, file: hash } });
      }
      problems.settle('file');
      this.#read = { ...this.#read, refused: null };
    } catch (error) {
      const why = refusedIn(error, log);
      const { code, message, members } = why;
      problems.report('file', code, `${path}: ${message}${typeof members['reason'] === 'string' ? ` (${members['reason']})` : ''}`);
      const wait = saysNothing(why) ? Math.min(2 * (refused?.wait ?? retryMs.unreachable[0]), retryMs.unreachable[1]) : retryMs.refused;
      this.#read = { ...this.#read, refused: { source, wait, retryAt: mono + wait } };
    }
  }
}
