export interface AccessConfig {
  /** Sets the root key; without it one is made at the first start and printed once. */
  rootApiKey: string | undefined;
}

export function accessConfig(env: NodeJS.ProcessEnv = process.env): AccessConfig {
  const rootApiKey = env['KEYLEDGER_ROOT_API_KEY'] || undefined;
  if (rootApiKey !== undefined && !/^[\x21-\x7e]{32,}$/.test(rootApiKey)) throw new Error('KEYLEDGER_ROOT_API_KEY must have at least 32 characters, all of them visible ASCII: it travels in a header');
  return { rootApiKey };
}
