import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import features from '@eventstore/db-client/generated/serverfeatures_pb.js';
import featureServices from '@eventstore/db-client/generated/serverfeatures_grpc_pb.js';
import messages from '@eventstore/db-client/generated/streams_pb.js';
import services from '@eventstore/db-client/generated/streams_grpc_pb.js';
import shared from '@eventstore/db-client/generated/shared_pb.js';
import { Metadata, Server, ServerCredentials, status, type ServerReadableStream, type ServerWritableStream, type sendUnaryData } from '@grpc/grpc-js';

type ReadCall = ServerWritableStream<messages.ReadReq, messages.ReadResp>;
type AppendCall = ServerReadableStream<messages.AppendReq, messages.AppendResp>;

interface Proposed {
  readonly id: string;
  readonly type: string;
  readonly json: boolean;
  readonly data: Uint8Array;
  readonly metadata: Uint8Array;
}

interface Logged extends Proposed {
  readonly stream: string;
  readonly revision: number;
  /** Where the event's record begins in the log. */
  readonly position: number;
  /** Where the first record of the append begins. */
  readonly transaction: number;
  readonly created: number;
}

export interface DoubleOptions {
  readonly maxAppendSize?: number;
  /** Milliseconds from confirming an event to sending it to subscribers. Default 0. */
  readonly lag?: number;
}

const MEGABYTE = 1024 * 1024;
const supported = new features.SupportedMethods().setEventStoreServerVersion('24.10.0').setMethodsList(['append', 'batchappend', 'read'].map((method) =>
  new features.SupportedMethod().setServiceName('event_store.client.streams.streams').setMethodName(method)));
const RECORD_BYTES = 150;
/** A new server has written events of its own before a client can write. */
const FIRST_POSITION = 1_200;

/**
 * A DOUBLE of EventStoreDB for tests, where there is no real one: the part of its gRPC protocol that the adapter uses, spoken with the client's own
 * generated messages. Written after the server's source (StorageWriterService, IndexWriter, AllReader, Enumerator.*): positions are bytes and
 * each event of an append has its own, requests with a position where no record begins are errors, forwards reads of $all include their start
 * and subscriptions do not, every append is followed by events of the server's own, and the same ids at the same revision are written once.
 * It cannot show how a real server behaves under load, in a cluster, or when it loses its disk.
 */
export class EventStoreDbDouble {
  readonly #options: DoubleOptions;
  readonly #log: Logged[] = [];
  readonly #streams = new Map<string, Logged[]>();
  /** By the events' positions. */
  readonly #indexes = new Map<number, number>();
  readonly #changed = new EventEmitter().setMaxListeners(0);
  #end = FIRST_POSITION;
  #server = new Server();
  #port = 0;
  #going: PromiseWithResolvers<void> = Promise.withResolvers();
  /** Calls so far, by method. */
  readonly calls = { append: 0, read: 0, other: 0 };
  /** Events sent so far. */
  sent = 0;
  /** Delay of each read's answer, in milliseconds. */
  delay = 0;

  static async start(options: DoubleOptions = {}): Promise<EventStoreDbDouble> {
    const double = new EventStoreDbDouble(options);
    double.#going.resolve();
    double.systemEvent();
    await double.#listen();
    return double;
  }

  private constructor(options: DoubleOptions) {
    this.#options = options;
  }

  get url(): string {
    return `esdb://127.0.0.1:${this.#port}?tls=false`;
  }

  /** Breaks all connections and stops answering; events written stay. */
  kill(): void {
    this.#server.forceShutdown();
  }

  /** With the same data, at the same address. */
  async restart(): Promise<void> {
    this.#server = new Server();
    await this.#listen();
  }

  /** Keeps connections open, answers nothing until `resume`. */
  hang(): void {
    this.#going = Promise.withResolvers();
  }

  resume(): void {
    this.#going.resolve();
  }

  /** Ends subscriptions, like a server that is about to shut down. */
  drop(): void {
    this.#changed.emit('drop');
  }

  /** Forgets the present subscriptions: they stay open but get no more events. */
  forget(): void {
    this.#changed.removeAllListeners();
  }

  /** One of the server's own. */
  systemEvent(stream = '$stats-127.0.0.1:2113'): void {
    this.#store(stream, [{ id: randomUUID(), type: '$statsCollected', json: true, data: Buffer.from('{}'), metadata: Buffer.from('{}') }]);
  }

  /** Like another application. */
  write(stream: string, count: number, metadata: object = {}): void {
    this.#store(stream, Array.from({ length: count }, () => ({
      id: randomUUID(), type: 'Happened', json: true, data: Buffer.from('{}'), metadata: Buffer.from(JSON.stringify(metadata)),
    })));
  }

  async #listen(): Promise<void> {
    this.#server.addService(services.StreamsService, {
      append: (call: AppendCall, answer: sendUnaryData<messages.AppendResp>) => void this.#append(call, answer),
      read: (call: ReadCall) => void this.#read(call),
      delete: (_: unknown, answer: sendUnaryData<never>) => this.#refuse(answer),
      tombstone: (_: unknown, answer: sendUnaryData<never>) => this.#refuse(answer),
      batchAppend: (call: AppendCall) => this.#refuse((error) => call.destroy(error as Error)),
    });
    this.#server.addService(featureServices.ServerFeaturesService, {
      getSupportedMethods: (_: unknown, answer: sendUnaryData<features.SupportedMethods>) => {
        this.calls.other++;
        answer(null, supported);
      },
    });
    this.#port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(`127.0.0.1:${this.#port}`, ServerCredentials.createInsecure(), (error, port) => (error ? reject(error) : resolve(port)));
    });
  }

  #refuse(answer: (error: object) => void): void {
    this.calls.other++;
    answer({ code: status.UNIMPLEMENTED, details: 'The double has no such method' });
  }

  // ---- append ---------------------------------------------------------------------------------------------------------------------

  async #append(call: AppendCall, answer: sendUnaryData<messages.AppendResp>): Promise<void> {
    this.calls.append++;
    let options: messages.AppendReq.Options | undefined;
    const events: Proposed[] = [];
    call.on('data', (request: messages.AppendReq) => {
      const message = request.getProposedMessage();
      if (message) events.push(proposed(message));
      else options = request.getOptions();
    });
    call.on('error', () => undefined);
    await once(call, 'end').catch(() => undefined);
    // A client that dies during its request seems at first to have completed it: nothing is written then, as on the real server.
    await nextTurn();
    if (call.cancelled) return;
    await this.#going.promise;
    if (!options || events.length === 0) return answer({ code: status.INVALID_ARGUMENT });
    const { maxAppendSize = 16 * MEGABYTE } = this.#options;
    if (events.reduce((size, { data, metadata }) => size + data.length + metadata.length, 0) > maxAppendSize) return answer(tooLarge(maxAppendSize));
    const stream = textOf(options.getStreamIdentifier()?.getStreamName_asU8());
    const last = (this.#streams.get(stream)?.length ?? 0) - 1;
    const expected = options.hasAny() ? 'any' : options.hasNoStream() ? -1 : options.hasStreamExists() ? 'exists' : Number(options.getRevision());
    const there = this.#idempotent(stream, last, expected, events);
    if (there) return answer(null, success(there));
    if (expected === 'any' || expected === last || (expected === 'exists' && last >= 0)) {
      const written = this.#store(stream, events);
      this.systemEvent();
      return answer(null, success(written));
    }
    answer(null, wrongExpectedVersion(options, last));
  }

  /** The last of the events if all were written before, and, if a revision is expected, directly after it. */
  #idempotent(stream: string, last: number, expected: number | 'any' | 'exists', events: readonly Proposed[]): Logged | undefined {
    const written = this.#streams.get(stream) ?? [];
    if (typeof expected === 'number' && expected >= last) return undefined;
    const from = typeof expected === 'number' ? expected + 1 : written.findIndex(({ id }) => id === events[0]?.id);
    const isThere = from >= 0 && events.every(({ id }, index) => written[from + index]?.id === id);
    return isThere ? written[from + events.length - 1] : undefined;
  }

  #store(stream: string, events: readonly Proposed[]): Logged {
    const all = this.#streams.get(stream) ?? [];
    this.#streams.set(stream, all);
    const transaction = this.#end;
    for (const event of events) {
      const logged = { ...event, stream, revision: all.length, position: this.#end, transaction, created: Date.now() };
      all.push(logged);
      this.#indexes.set(logged.position, this.#log.push(logged) - 1);
      this.#end += RECORD_BYTES + stream.length + event.data.length + event.metadata.length;
    }
    this.#changed.emit('grown');
    return all.at(-1) as Logged;
  }

  // ---- read and subscribe ---------------------------------------------------------------------------------------------------------

  async #read(call: ReadCall): Promise<void> {
    this.calls.read++;
    if (this.delay > 0) await sleep(this.delay);
    await this.#going.promise;
    const options = call.request.getOptions();
    if (!options) return fail(call, status.INVALID_ARGUMENT);
    if (options.hasSubscription()) return this.#subscribe(call, options);
    const found = options.hasStream() ? this.#readStream(options) : this.#readAll(options);
    if (found === 'no such stream') call.write(new messages.ReadResp().setStreamNotFound(new messages.ReadResp.StreamNotFound().setStreamIdentifier(options.getStream()?.getStreamIdentifier())));
    else if (found === 'no such position') return fail(call, status.UNKNOWN, 'Log record at actual pos has non-positive length');
    else for (const event of found) if (!(await this.#send(call, answerWith(event)))) break;
    call.end();
  }

  #readStream(options: messages.ReadReq.Options): readonly Logged[] | 'no such stream' {
    const asked = options.getStream();
    const all = this.#streams.get(textOf(asked?.getStreamIdentifier()?.getStreamName_asU8()));
    if (!all) return 'no such stream';
    const count = Number(options.getCount());
    if (options.getReadDirection() === messages.ReadReq.Options.ReadDirection.FORWARDS) {
      const from = asked?.hasEnd() ? all.length : asked?.hasStart() ? 0 : Number(asked?.getRevision());
      return all.slice(from, from + count);
    }
    const to = asked?.hasEnd() ? all.length : asked?.hasStart() ? 0 : Number(asked?.getRevision()) + 1;
    return all.slice(Math.max(0, to - count), to).toReversed();
  }

  #readAll(options: messages.ReadReq.Options): readonly Logged[] | 'no such position' {
    const asked = options.getAll();
    const isForwards = options.getReadDirection() === messages.ReadReq.Options.ReadDirection.FORWARDS;
    const at = asked?.hasEnd() ? this.#log.length : asked?.hasStart() ? 0 : this.#indexOf(asked?.getPosition());
    if (at === undefined) return 'no such position';
    const pass = filterOf(options);
    const found: Logged[] = [];
    const [step, count] = [isForwards ? 1 : -1, Number(options.getCount())];
    for (let next = isForwards ? at : at - 1; next >= 0 && next < this.#log.length && found.length < count; next += step) {
      const event = this.#log[next] as Logged;
      if (pass(event)) found.push(event);
    }
    return found;
  }

  /** The end of the log: where the next record will begin. */
  #indexOf(position: messages.ReadReq.Options.Position | undefined): number | undefined {
    const commit = Number(position?.getCommitPosition());
    return commit === this.#end ? this.#log.length : this.#indexes.get(commit);
  }

  async #subscribe(call: ReadCall, options: messages.ReadReq.Options): Promise<void> {
    const asked = options.getAll();
    const start = asked?.hasStart() ? -1 : asked?.hasEnd() ? this.#log.length - 1 : this.#indexOf(asked?.getPosition());
    if (!asked || start === undefined) return fail(call, status.UNKNOWN, 'Log record at actual pos has non-positive length');
    const pass = filterOf(options);
    const filter = options.getFilter();
    const window = (filter?.getMax() || 32) * (filter?.getCheckpointintervalmultiplier() || 1);
    const changes = new EventEmitter();
    const grown = () => changes.emit('change');
    const drop = () => fail(call, status.UNAVAILABLE, 'The server is shutting down');
    this.#changed.on('grown', grown).on('drop', drop);
    call.on('cancelled', grown).on('close', grown);
    await this.#send(call, new messages.ReadResp().setConfirmation(new messages.ReadResp.SubscriptionConfirmation().setSubscriptionId(randomUUID())));
    let isLive = false;
    for (let next = start + 1; !call.cancelled && !call.destroyed;) {
      const event = this.#log[next];
      if (!event) {
        if (!isLive) await this.#send(call, new messages.ReadResp().setCaughtUp(new messages.ReadResp.CaughtUp()));
        isLive = true;
        if (next === this.#log.length && !call.cancelled && !call.destroyed) await once(changes, 'change');
        continue;
      }
      const early = event.created + (this.#options.lag ?? 0) - Date.now();
      if (early > 0) {
        await sleep(early);
        continue;
      }
      next++;
      if (pass(event)) await this.#send(call, answerWith(event));
      if (filter && next % window === 0) await this.#send(call, new messages.ReadResp().setCheckpoint(checkpointAt(event)));
    }
    this.#changed.off('grown', grown).off('drop', drop);
    call.end();
  }

  /** false when the client has gone. */
  async #send(call: ReadCall, answer: messages.ReadResp): Promise<boolean> {
    await this.#going.promise;
    if (call.cancelled || call.destroyed) return false;
    if (answer.hasEvent()) this.sent++;
    if (!call.write(answer)) await room(call);
    return !call.cancelled;
  }
}

/** Waits for room to write, or until the client has gone. */
function room(call: ReadCall): Promise<void> {
  const events = ['drain', 'close', 'cancelled'];
  return new Promise((resolve) => {
    const done = () => {
      for (const event of events) call.off(event, done);
      resolve();
    };
    for (const event of events) call.on(event, done);
  });
}

function fail(call: ReadCall, code: status, details = ''): void {
  call.emit('error', Object.assign(new Error(details), { code, details }));
}

const textOf = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString();
const named = (stream: string) => new shared.StreamIdentifier().setStreamName(Buffer.from(stream));

function proposed(message: messages.AppendReq.ProposedMessage): Proposed {
  const metadata = message.getMetadataMap();
  return {
    id: message.getId()?.getString() ?? '', type: metadata.get('type') ?? '', json: metadata.get('content-type') === 'application/json',
    data: message.getData_asU8(), metadata: message.getCustomMetadata_asU8(),
  };
}

function success({ revision, position }: Logged): messages.AppendResp {
  const at = new messages.AppendResp.Position().setCommitPosition(String(position)).setPreparePosition(String(position));
  return new messages.AppendResp().setSuccess(new messages.AppendResp.Success().setCurrentRevision(String(revision)).setPosition(at));
}

function wrongExpectedVersion(options: messages.AppendReq.Options, last: number): messages.AppendResp {
  const wrong = new messages.AppendResp.WrongExpectedVersion();
  if (last < 0) wrong.setCurrentNoStream(new shared.Empty());
  else wrong.setCurrentRevision(String(last));
  if (options.hasRevision()) wrong.setExpectedRevision(options.getRevision());
  else wrong.setExpectedNoStream(new shared.Empty());
  return new messages.AppendResp().setWrongExpectedVersion(wrong);
}

function tooLarge(size: number) {
  const metadata = new Metadata();
  metadata.set('exception', 'maximum-append-size-exceeded');
  metadata.set('maximum-append-size', String(size));
  return { code: status.INVALID_ARGUMENT, details: `Maximum Append Size of ${size} Exceeded.`, metadata };
}

function filterOf(options: messages.ReadReq.Options): (event: Logged) => boolean {
  const filter = options.getFilter();
  const expression = filter?.getStreamIdentifier() ?? filter?.getEventType();
  if (!filter || !expression) return () => true;
  const subject = (event: Logged) => (filter.hasStreamIdentifier() ? event.stream : event.type);
  const regex = expression.getRegex() ? new RegExp(expression.getRegex()) : undefined;
  const prefixes = expression.getPrefixList();
  return (event) => regex?.test(subject(event)) ?? prefixes.some((prefix) => subject(event).startsWith(prefix));
}

const checkpointAt = ({ position }: Logged) => new messages.ReadResp.Checkpoint().setCommitPosition(String(position)).setPreparePosition(String(position));

const answers = new WeakMap<Logged, messages.ReadResp>();

/** Built and serialised once: a test would spend most of its time on that. */
function answerWith(logged: Logged): messages.ReadResp {
  let answer = answers.get(logged);
  if (!answer) {
    answer = newAnswer(logged);
    const bytes = answer.serializeBinary();
    answer.serializeBinary = () => bytes;
    answers.set(logged, answer);
  }
  return answer;
}

function newAnswer({ id, stream, revision, position, transaction, type, json, created, data, metadata }: Logged): messages.ReadResp {
  const event = new messages.ReadResp.ReadEvent.RecordedEvent()
    .setId(new shared.UUID().setString(id)).setStreamIdentifier(named(stream)).setStreamRevision(String(revision))
    .setCommitPosition(String(position)).setPreparePosition(String(transaction)).setData(data).setCustomMetadata(metadata);
  event.getMetadataMap().set('type', type).set('content-type', json ? 'application/json' : 'application/octet-stream').set('created', `${created}0000`);
  return new messages.ReadResp().setEvent(new messages.ReadResp.ReadEvent().setEvent(event).setCommitPosition(String(position)));
}
