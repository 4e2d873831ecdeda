import { context, hasContext } from '@keyledger/kernel';
import { destination as openDestination, pino, stdSerializers, stdTimeFunctions, type DestinationStream, type Level, type Logger } from 'pino';
import { maskLine } from './mask.ts';
import { currentTraceId } from './tracing.ts';

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

/** Lines of `{time, level, service, environment?, correlationId?, traceId?, …, msg}`; no secret survives in them beyond its first 8 characters. */
export function createLog({ level, service, destination = openDestination(1) }: LogOptions): Log {
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
