import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import * as contracts from '@keyledger/contracts';

/** What a service's source says: the message classes it handles, and the others it can name, because whom it asks it must name. */
interface Spoken {
  readonly handles: readonly string[];
  readonly imports: readonly string[];
}
type Sources = ReadonlyMap<string, string>;

const subjects: ReadonlyMap<string, string> = new Map(Object.entries(contracts as Readonly<Record<string, unknown>>).flatMap(([name, type]) => (typeof type === 'function' && 'subject' in type ? [[name, type.subject as string]] : [])));
const names = (list: string): readonly string[] => list.split(',').map((name) => name.trim()).filter((name) => subjects.has(name));

function spokenIn(source: string): Spoken {
  const code = source.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
  return {
    handles: [...code.matchAll(/@Handles\(([^)]*)\)/g)].flatMap(([, list]) => names(list as string)),
    imports: [...code.matchAll(/^import \{([^}]*)\} from '@keyledger\/contracts'/gm)].flatMap(([, list]) => names(list as string)),
  };
}

/** Answering service → asking service → subjects, as the sources say it. */
function spokenBy(apps: Sources): readonly string[] {
  const spoken = new Map([...apps].map(([app, source]) => [app, spokenIn(source)]));
  const answering = (name: string) => [...spoken].filter(([, { handles }]) => handles.includes(name)).map(([app]) => app).join(' and ') || 'nobody';
  return [...new Set([...spoken].flatMap(([app, { handles, imports }]) => imports.filter((name) => !handles.includes(name)).map((name) => `${app} asks ${answering(name)}: ${subjects.get(name)}`)))].sort();
}

/** Asked by nobody, or by one who says that a message of its own is asked of itself over the bus. */
function unspoken(apps: Sources): readonly string[] {
  const spoken = [...apps].map(([app, source]) => [app, spokenIn(source)] as const);
  return [...subjects].filter(([name]) => !spoken.some(([, { handles, imports }]) => imports.includes(name) && !handles.includes(name))).map(([, subject]) => subject);
}

const root = fileURLToPath(new URL('../', import.meta.url));
const sources: Sources = new Map(readdirSync(`${root}apps`).filter((app) => existsSync(`${root}apps/${app}/src`)).map((app) => [
  app,
  readdirSync(`${root}apps/${app}/src`, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts') && !/\.(spec|contract)\.ts$/.test(path)).map((path) => readFileSync(`${root}apps/${app}/src/${path}`, 'utf8')).join('\n'),
]));
const inTable = Object.entries(contracts.bus as contracts.Bus).flatMap(([answering, askers]) => Object.entries(askers).flatMap(([asking, asked]) => asked.map((subject) => `${asking} asks ${answering}: ${subject}`))).sort();
const sending = (source: string) => [...source.matchAll(/\.send\(\s*(\w+)/g)].map(([, name]) => name as string).filter((name) => subjects.has(name));

describe('The table of who speaks to whom', () => {
  it('says what the services say, no more and no less', () => expect(inTable).toEqual(spokenBy(sources)));

  it('has every message, and nobody asks himself over the bus', () => {
    expect(unspoken(sources)).toEqual([]);
    for (const [app, source] of sources) expect({ app, asks: sending(source).filter((name) => spokenIn(source).handles.includes(name)) }).toEqual({ app, asks: [] });
  });

  it('has names that mean themselves to a NATS server: no wildcard, nothing that comes from outside', () => {
    for (const subject of subjects.values()) expect(subject).toMatch(/^[a-z]+(-[a-z]+)*\.[a-z]+(-[a-z]+)*$/);
    expect(subjects.size).toBeGreaterThan(100);
  });

  it.each<[string, string, RegExp, string]>([
    ['a handler of somebody else’s message', 'notifier', /@Handles\(/, '@Handles(GetLicense, '],
    ['a handler that is gone', 'access', /@Handles\(Authenticate/, '@Handles('],
    ['a question that is new', 'notifier', /^/, "import { GetLicense } from '@keyledger/contracts';\n"],
    ['a question among several lines', 'notifier', /^/, "import {\n  type Verdict,\n  GetLicense,\n} from '@keyledger/contracts';\n"],
    ['a question that is not asked any more', 'catalog', /\bPrepareLicenses,/g, ''],
  ])('is not let through with %s', (_, app, what, other) => {
    const changed = new Map(sources).set(app, (sources.get(app) as string).replace(what, other));
    expect(changed.get(app)).not.toBe(sources.get(app));
    expect(spokenBy(changed)).not.toEqual(inTable);
  });
});
