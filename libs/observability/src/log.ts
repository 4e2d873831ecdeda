import { context, hasContext } from '@keyledger/kernel';
import { pino, stdSerializers, stdTimeFunctions, type DestinationStream, type Level, type Logger } from 'pino';
import sonicBoom from 'sonic-boom';
import { maskLine } from './mask.ts';
import { currentTraceId } from './tracing.ts';

// A CommonJS module whose names Node does not find.
const { SonicBoom } = sonicBoom;

/** pino's logger, also as a class, so that it can be injected. */
// oxlint-disable-next-line no-extraneous-class, no-unsafe-declaration-merging -- an injection token with the type of what it stands for
export abstract class Log {}
// oxlint-disable-next-line no-unsafe-declaration-merging
export interface Log extends Logger {}

export interface LogOptions {
  readonly level: Level | 'silent';
  readonly service: string;
  /** Where the lines go, one JSON object each; standard output by default. */
  readonly destination?: DestinationStream;
}

/** What every line says about the message being handled, without callers passing it on. */
function aboutTheMessage(): object {
  const traceId = currentTraceId();
  if (!hasContext()) return traceId ? { traceId } : {};
  const { environment, correlationId } = context();
  return traceId ? { environment, correlationId, traceId } : { environment, correlationId };
}

/** For a reader that stands still, or a disk that is full; what comes then is dropped, and counted. */
const KEPT_CHARACTERS = 4_000_000;
/** A tenth of a second each, as a process ends. */
const LAST_TRIES = 20;

/**
 * pino's own destination cannot end when its reader is gone: the process would try for ever to write the last lines, and stay, without the parent
 * whose end it was to follow. For a reader that stands still an end waits two seconds, or as long as a write itself waits (a pipe that
 * nobody made non-blocking): only a signal ends that.
 */
function openStandardOutput(service: string): DestinationStream {
  let isGone = false;
  let dropped = 0;
  let triesLeft = Infinity;
  const stream = new SonicBoom({ fd: 1, maxLength: KEPT_CHARACTERS, retryEAGAIN: () => triesLeft-- > 0 });
  stream.on('error', ({ code }: NodeJS.ErrnoException) => { isGone ||= code === 'EPIPE'; });
  stream.on('drop', () => {
    dropped++;
    stream.flush(); // After an error it writes with the next line that it takes, and it takes none any more.
  });
  stream.on('drain', () => {
    if (dropped === 0) return;
    const line = { level: 'warn', time: new Date().toISOString(), service, dropped, msg: 'Log lines were dropped: nothing took them' };
    dropped = 0;
    stream.write(`${JSON.stringify(line)}\n`);
  });
  process.on('exit', () => {
    triesLeft = LAST_TRIES;
    try {
      if (!isGone) stream.flushSync();
    } catch {
      // Nobody reads them any more.
    }
  });
  return { write: (line) => void (isGone || stream.write(line)) };
}

let output: DestinationStream | undefined;
const standardOutput = (service: string): DestinationStream => (output ??= openStandardOutput(service));

/** Lines of `{time, level, service, environment?, correlationId?, traceId?, …, msg}`; no secret survives in them beyond its first 8 characters. */
export function createLog({ level, service, destination = standardOutput(service) }: LogOptions): Log {
  return pino(
    {
      level,
      base: { service },
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      mixin: aboutTheMessage,
      serializers: { err: stdSerializers.errWithCause, error: stdSerializers.errWithCause },
    },
    { write: (line: string) => destination.write(maskLine(line)) },
  );
}

const TOLD_AGAIN_AFTER_MS = 30_000;

/** For work that is retried as long as it takes: logs the first time, and then every half minute. */
export function nowAndThen<T extends readonly unknown[]>(tell: (...about: T) => void): (...about: T) => void {
  let toldAt = -Infinity;
  return (...about) => {
    if (performance.now() - toldAt < TOLD_AGAIN_AFTER_MS) return;
    toldAt = performance.now();
    tell(...about);
  };
}
