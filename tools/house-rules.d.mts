interface SourceFile {
  path: string;
  text: string;
}
export const imports: Record<string, string[]>;
export const rules: Record<string, (file: SourceFile, context: { codes: Set<string> }) => string[]>;
export function unusedCodes(files: SourceFile[], codes: Set<string>): string[];
export function declarationFaults(owner: string, files: SourceFile[], manifest: object, config: object): string[];
export function violations(files: SourceFile[], codes: Set<string>): string[];
export function codesIn(errorsSource: string): Set<string>;
