export { importPublicKey, readPublicKeys, thumbprint, type PublicJwk } from './ed25519.ts';
export { fileTypeOf, maxLength, type Certificate, type FileType } from './envelope.ts';
export { reasons, type Reason, type Verified } from './result.ts';
export {
  purposes, statements, type Claims, type KeyStatement, type LeaseClaims, type LicensedFeature, type LicensedTerms, type LicenseFile, type OfflineFile, type Purpose, type RevocationClaims,
  type SignedVerdict, type StatementOf, type StatementType, type VerdictClaims,
} from './statements.ts';
export { clockSkewSeconds, Verifier, type Expected, type KeySet, type Pins } from './verifier.ts';
