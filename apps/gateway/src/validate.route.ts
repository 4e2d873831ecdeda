import { bodyOf, ValidateLicense, Verdict } from '@keyledger/contracts';
import { isTransient } from '@keyledger/kernel';
import type { MessageClient } from '@keyledger/messaging';
import type { FastifyInstance } from 'fastify';
import type { Static } from 'typebox';
import * as examples from './examples.ts';
import { questionOf, type LastKnownVerdicts } from './last-known.ts';
import { nothing, type Operation } from './operation.ts';
import type { ProblemFilter } from './problems.ts';
import type { RateLimits } from './rate-limits.ts';
import type { StoredVerdicts } from './stored-verdicts.ts';

const operation: Operation = {
  id: 'validateLicense', method: 'POST', path: '/license/validate', needs: 'license-key', safe: true,
  summary: 'Validate a license. Always 200 for a well-formed request; the verdict is in the body', body: bodyOf(ValidateLicense, 'repeatable'), answer: Verdict, example: examples.validate,
};

/** What a gateway remembers of verdicts where the services may be out of reach while it keeps running. */
export interface KnownVerdicts {
  readonly last: LastKnownVerdicts;
  readonly stored: StoredVerdicts;
}

/**
 * `POST /license/validate` is called more often than everything else together. It is a plain Fastify route: Nest's way from the route to a
 * method costs more than the verdict does.
 */
export function serveValidation(fastify: FastifyInstance, messages: MessageClient, limits: RateLimits, problems: ProblemFilter, known?: KnownVerdicts): void {
  fastify.route<{ Body: ValidateLicense }>({
    method: operation.method, url: operation.path, config: { operation }, schema: { body: operation.body, querystring: nothing },
    errorHandler: (error, request, reply) => problems.answer(error, request, reply),
    handler({ ip, body, context }, reply) {
      const environment = context?.environment ?? '';
      const name = known ? questionOf(environment, body) : '';
      const answer = (text: string) => void reply.header('Content-Type', 'application/json; charset=utf-8').send(text);

      const ask = () => limits.unknownLicenseKeys.inTurn(ip, body.licenseKey, reply, (right) => (known?.stored.fresh(environment, name, body) ?? messages.sendForText(ValidateLicense, body)).then((text) => {
        const unknown = withoutLicense(text);
        if (unknown) {
          const { retired, ...verdict } = unknown;
          if (!retired) limits.wrongLicenseKey(ip, body.licenseKey, reply);
          known?.last.forget(name);
          return answer(JSON.stringify(verdict));
        }
        right();
        known?.last.keep(name, text, Date.now());
        return answer(text);
      }));

      // What is stored was right before: nothing is guessed with it, and it need not wait its turn.
      const repeated = known?.stored.repeated(environment, name, body, ip, () => limits.unknownLicenseKeys.prove(ip, body.licenseKey));
      (repeated?.then((text) => (text === undefined ? ask() : answer(text))) ?? ask()).catch((error: unknown) => {
        const text = isTransient(error) ? known?.last.find(name, Date.now()) : undefined;
        if (text === undefined) reply.send(error);
        else answer(text);
      });
    },
  });
}

/** The verdict on a key that no license has. Others are passed on as they are: to read one costs more than to judge it. */
function withoutLicense(text: string): Static<typeof ValidateLicense.answer> | undefined {
  // What is valid has a license; most answers need not be searched.
  if (text.startsWith('{"valid":true') || !text.includes('"license":null')) return undefined;
  // A vendor's metadata may contain that as well.
  const verdict = JSON.parse(text) as Static<typeof ValidateLicense.answer>;
  return verdict.license ? undefined : verdict;
}
