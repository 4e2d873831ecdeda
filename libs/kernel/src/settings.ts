import { readFileSync } from 'node:fs';

/** A setting that may hold a secret: from its variable, or from the file named by the other variable, so that it need not be in the environment. Undefined when neither is set. */
export function settingOrFile(env: Readonly<Record<string, string | undefined>>, name: string, fileName: string): string | undefined {
  const [value, path] = [env[name] || undefined, env[fileName] || undefined];
  if (path === undefined) return value;
  if (value !== undefined) throw new Error(`Set ${name} or ${fileName}, not both`);
  const text = contentOf(fileName, path).trim();
  if (text === '') throw new Error(`${fileName}: ${path} is empty`);
  return text;
}

function contentOf(fileName: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new Error(`${fileName}: ${path} cannot be read`, { cause: error });
  }
}
