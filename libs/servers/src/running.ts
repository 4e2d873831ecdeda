/** A server that somebody has started and has to stop. */
export interface Running {
  /** Stays the same over restarts. */
  readonly url: string;
  /** Of the process now (of its `docker run` where it is a container). */
  readonly pid: number;
  /** Resolves when the process that is there now has ended, for whatever reason. */
  readonly ended: Promise<void>;
  /** In good order, and for good: what was temporary is removed. */
  stop(): Promise<void>;
  /** SIGKILL, to all its processes at once; resolves when it is gone. */
  kill(): Promise<void>;
  /** Starts it again on the same data at the same address, whether it runs or not; resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP to all its processes: connections stay open, nothing is answered until `resume`. */
  pause(): void;
  resume(): void;
}
