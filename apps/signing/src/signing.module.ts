import { Module, type DynamicModule, type OnApplicationBootstrap, type OnModuleDestroy, type Provider } from '@nestjs/common';
import { CqrsModule } from '@nestjs/cqrs';
import { Clock, environments, runIn, systemContext } from '@keyledger/kernel';
import { Keyrings } from '@keyledger/keyring';
import { Log } from '@keyledger/observability';
import { StateDatabases } from '@keyledger/read-models';
import type { SigningConfig } from './config.ts';
import { KeyStore, SealedKeys } from './key-store.ts';
import { KeySetQuery, RootKeysQuery, SigningKeyCommands, SigningKeyList } from './keys.handlers.ts';
import { Keys, SigningStreams } from './keys.ts';
import { takeRootsOffline } from './offline-root.ts';
import { FileSigning, LeaseSigning, Signatures, VerdictSigning } from './statements.handlers.ts';

const lookEveryMs = 6 * 3_600_000;

/** Keeps the private keys of every environment, and signs what proves a license outside of the server. */
@Module({})
export class SigningModule implements OnApplicationBootstrap, OnModuleDestroy {
  #looking: NodeJS.Timeout | undefined;

  constructor(private readonly keys: Keys, private readonly store: KeyStore, private readonly clock: Clock, private readonly log: Log) {}

  static with(platform: readonly Provider[], { passphrase, rootExport }: SigningConfig): DynamicModule {
    return {
      module: SigningModule,
      imports: [CqrsModule.forRoot()],
      providers: [
        ...platform,
        SigningKeyCommands, SigningKeyList, KeySetQuery, RootKeysQuery, FileSigning, LeaseSigning, VerdictSigning, Signatures, SigningStreams,
        { provide: KeyStore, useFactory: (databases: StateDatabases, keyrings: Keyrings) => new SealedKeys(databases, keyrings, passphrase), inject: [StateDatabases, Keyrings] },
        {
          provide: Keys,
          useFactory: async (streams: SigningStreams, store: KeyStore, clock: Clock, log: Log) => {
            const keys = new Keys(streams, store, clock, log);
            await mustOpen(keys, clock, log);
            if (store instanceof SealedKeys) await inEach(clock, () => store.sealAnew());
            await keys.listen();
            await provide(keys, clock);
            if (rootExport && store instanceof SealedKeys) await takeRootsOffline(keys, store, clock, rootExport);
            return keys;
          },
          inject: [SigningStreams, KeyStore, Clock, Log],
        },
      ],
    };
  }

  onApplicationBootstrap(): void {
    this.#looking = setInterval(() => void provide(this.keys, this.clock).catch((error: unknown) => this.log.error({ err: error }, 'signing keys could not be renewed; it will be tried again')), lookEveryMs).unref();
  }

  async onModuleDestroy(): Promise<void> {
    clearInterval(this.#looking);
    await this.keys.close();
    await this.store.close();
  }
}

const inEach = <T>(clock: Clock, work: () => Promise<T>): Promise<T[]> =>
  Promise.all(environments.map((environment) => runIn(systemContext(environment, clock.now(environment)), work)));

async function provide(keys: Keys, clock: Clock): Promise<void> {
  await inEach(clock, () => keys.provideAll());
}

/** With a wrong passphrase nothing could be signed, and keys created meanwhile would be sealed with it. A single damaged key is no reason not to sign with the others. */
async function mustOpen(keys: Keys, clock: Clock, log: Log): Promise<void> {
  const tried = (await inEach(clock, () => keys.tried())).flat();
  for (const { setting } of tried) {
    if (setting !== undefined && !tried.some((key) => key.setting === setting && key.opens)) {
      throw new Error(`${setting} is missing or not the one the signing keys were sealed with: none of them can be opened, so nothing could be signed`);
    }
  }
  for (const { opens, ...key } of tried) if (!opens) log.error(key, 'a signing key is missing or cannot be opened');
}
