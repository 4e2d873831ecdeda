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
const mostPerMessage = 100;

/**
 * Signed verdicts. What is asked for in one turn of the event loop goes to the signing service in one message: a message costs more than a
 * signature. While nobody signs, verdicts are given without a token.
 */
@Injectable()
export class VerdictTokens {
  readonly #waiting = new Map<string, Waiting[]>();

  constructor(private readonly messages: MessageClient, private readonly log: Log) {}

  for(statement: Statement): Promise<string | undefined> {
    const sender = context();
    return new Promise((resolve) => {
      const waiting = this.#waiting.get(sender.environment);
      if (waiting) return void waiting.push({ statement, resolve });
      this.#waiting.set(sender.environment, [{ statement, resolve }]);
      setImmediate(() => this.#send(sender));
    });
  }

  #send(sender: MessageContext): void {
    const waiting = this.#waiting.get(sender.environment) ?? [];
    this.#waiting.delete(sender.environment);
    for (let at = 0; at < waiting.length; at += mostPerMessage) void runIn(sender, () => this.#sign(waiting.slice(at, at + mostPerMessage)));
  }

  async #sign(waiting: readonly Waiting[]): Promise<void> {
    const tokens = await this.messages.send(SignVerdicts, { verdicts: waiting.map(({ statement }) => statement) }, { timeoutMs: signedWithinMs }).then(
      (signed) => signed.tokens,
      (error: unknown) => {
        this.log.warn({ err: error, verdicts: waiting.length }, 'verdicts given without a token');
        return [];
      },
    );
    waiting.forEach(({ resolve }, n) => resolve(tokens[n] ?? undefined));
  }
}
