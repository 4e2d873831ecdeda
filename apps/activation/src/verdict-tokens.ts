import { SignVerdicts } from '@keyledger/contracts';
import { context, runIn, type MessageContext } from '@keyledger/kernel';
import { MessageClient } from '@keyledger/messaging';
import { Log } from '@keyledger/observability';
import { Injectable } from '@nestjs/common';

type Statement = SignVerdicts['verdicts'][number];
interface Waiting {
  readonly statement: Statement;
  readonly resolve: (token: string | undefined) => void;
}

const signedWithinMs = 2000;
/** So many tokens do not wait for the end of the turn: they are signed while this process goes on. */
const mostPerMessage = 16;

/**
 * Signed verdicts. Tokens wanted in one turn of the event loop go to the signing service together: a message costs more than a signature.
 * While signing is unavailable, verdicts are given without a token.
 */
@Injectable()
export class VerdictTokens {
  /** By environment; an entry stays, so that the map does not grow old tables (see Slots). */
  readonly #waiting = new Map<string, Waiting[] | undefined>();

  constructor(private readonly messages: MessageClient, private readonly log: Log) {}

  for(statement: Statement): Promise<string | undefined> {
    const sender = context();
    return new Promise((resolve) => {
      let waiting = this.#waiting.get(sender.environment);
      if (!waiting) {
        this.#waiting.set(sender.environment, (waiting = []));
        setImmediate(() => this.#send(sender));
      }
      if (waiting.push({ statement, resolve }) === mostPerMessage) this.#send(sender);
    });
  }

  #send(sender: MessageContext): void {
    const waiting = this.#waiting.get(sender.environment);
    if (!waiting) return;
    this.#waiting.set(sender.environment, undefined);
    void runIn(sender, () => this.#sign(waiting));
  }

  async #sign(waiting: readonly Waiting[]): Promise<void> {
    const tokens = await this.messages.send(SignVerdicts, { verdicts: waiting.map(({ statement }) => statement) }, { timeoutMs: signedWithinMs }).then(
      (signed) => signed.tokens,
      (error: unknown) => {
        this.log.warn({ err: error, verdicts: waiting.length }, 'verdicts were answered without a token');
        return [];
      },
    );
    waiting.forEach(({ resolve }, n) => resolve(tokens[n] ?? undefined));
  }
}
