import { parseArgs } from 'node:util';

const help = `keyledger <command> [options]

  export --to <file>     Write everything that cannot be rebuilt to one file: the log of every
                         environment and the state tables, including the wrapped data keys.
                         On files, stop the product first; on PostgreSQL it may keep running.
  import --from <file>   Fill empty stores from such a file. If interrupted, run it again with
                         the same file; until then the product does not start on those stores.

  Use - as the file for standard output or input.
  -h, --help             Show this text.

The stores are those the product would use with the same environment variables: files in
KEYLEDGER_DATA_DIR, or the servers at DATABASE_URL and EVENTSTORE_URL.
The master key is not in the file. An import needs the one the export was made under:
KEYLEDGER_MASTER_KEY_FILE, KEYLEDGER_MASTER_KEY, or master.key in the data directory.

Exit status: 0 done, 1 failed, 2 usage error.`;

/** The option that names the file, and the function that handles it, loaded on demand because loading takes a moment. */
const commands = {
  export: { option: 'to', load: async () => (await import('./export.ts')).exportTo },
  import: { option: 'from', load: async () => (await import('./import.ts')).importFrom },
} as const;

/** The arguments are wrong: exit status 2. */
class Misunderstood extends Error {}

/** Does what the arguments ask for. Standard output is for data alone; what was done, or what went wrong, is one line of standard error. Returns the exit code. */
export async function run(args: readonly string[]): Promise<0 | 1 | 2> {
  const say = (line: string) => void process.stderr.write(`${line}\n`);
  try {
    const asked = understood(args);
    if (!asked) {
      process.stdout.write(`${help}\n`);
      return 0;
    }
    const [work, { storesConfig }] = await Promise.all([commands[asked.command].load(), import('@keyledger/stores')]);
    say(await work(asked.file, storesConfig()));
    return 0;
  } catch (error) {
    const [line] = (error instanceof Error ? error.message : String(error)).split('\n');
    say(`keyledger: ${line}${error instanceof Misunderstood ? ' (keyledger --help)' : ''}`);
    return error instanceof Misunderstood ? 2 : 1;
  }
}

/** Undefined: show the help. */
function understood(args: readonly string[]): { readonly command: keyof typeof commands; readonly file: string } | undefined {
  const { values, positionals: [name, ...others] } = parsed(args);
  if (values.help || (name === undefined && Object.keys(values).length === 0)) return undefined;
  if (name === undefined || !isCommand(name) || others.length > 0) throw new Misunderstood(name === undefined || isCommand(name) ? 'give exactly one command' : `there is no command ${name}`);
  const { option } = commands[name];
  const { [option]: file, ...rest } = values;
  if (!file) throw new Misunderstood(`${name} needs --${option} <file>`);
  if (Object.keys(rest).length > 0) throw new Misunderstood(`${name} accepts only --${option}`);
  return { command: name, file };
}

function parsed(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args], allowPositionals: true,
      options: { help: { type: 'boolean', short: 'h' }, to: { type: 'string' }, from: { type: 'string' } },
    });
  } catch (error) {
    throw new Misunderstood((error as Error).message.split('. ', 1)[0]);
  }
}

const isCommand = (name: string): name is keyof typeof commands => Object.hasOwn(commands, name);
