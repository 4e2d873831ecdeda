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

/** For a reader that stands still, or a disk that is full; what comes then is dropped. */
const KEPT_CHARACTERS = 4_000_000;

/**
 * pino's own destination cannot end when its reader is gone: the process would try for ever to write the last lines, and stay, without the parent
 * whose end it was to follow.
 */
function openStandardOutput(): DestinationStream {
  let isGone = false;
  const stream = new SonicBoom({ fd: 1, maxLength: KEPT_CHARACTERS });
  stream.on('error', ({ code }: NodeJS.ErrnoException) => { isGone ||= code === 'EPIPE'; });
  process.on('exit', () => {
    try {
      if (!isGone) stream.flushSync();
    } catch {
      // Nobody reads them any more.
    }
  });
  return { write: (line) => void (isGone || stream.write(line)) };
}

let output: DestinationStream | undefined;
const standardOutput = (): DestinationStream => (output ??= openStandardOutput());

/** Lines of `{time, level, service, environment?, correlationId?, traceId?, …, msg}`; no secret survives in them beyond its first 8 characters. */
export function createLog({ level, service, destination = standardOutput() }: LogOptions): Log {
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
