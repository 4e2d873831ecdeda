export interface AccessConfig {
  /** Sets the root key; without it one is generated at the first start and printed once. */
  rootApiKey: string | undefined;
}

export function accessConfig(env: NodeJS.ProcessEnv = process.env): AccessConfig {
  const rootApiKey = env['KEYLEDGER_ROOT_API_KEY'] || undefined;
  if (rootApiKey !== undefined && !/^[\x21-\x7e]{32,}$/.test(rootApiKey)) throw new Error('KEYLEDGER_ROOT_API_KEY must have at least 32 characters, all visible ASCII, because it is sent in a header');
  return { rootApiKey };
}
