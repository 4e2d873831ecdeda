/** A running server; its starter must stop it. */
export interface Running {
  /** The same over restarts. */
  readonly url: string;
  /** Of the present process (of `docker run` for a container). */
  readonly pid: number;
  /** Resolves when the present process has ended, for any reason. */
  readonly ended: Promise<void>;
  /** Orderly, and for good: temporary data are removed. */
  stop(): Promise<void>;
  /** SIGKILL to all its processes at once; resolves when they are gone. */
  kill(): Promise<void>;
  /** Starts it again on the same data at the same address, whether it runs or not; resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP to all its processes: connections stay open, without answers until `resume`. */
  pause(): void;
  resume(): void;
}
