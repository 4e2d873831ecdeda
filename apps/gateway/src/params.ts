import { Param, type PipeTransform } from '@nestjs/common';
import { isId, refuse, type ErrorCode, type IdPrefix } from '@keyledger/kernel';

/** A path parameter that must be an id of this kind; any other string is answered as not found. */
export const IdOf = (prefix: IdPrefix, otherwise: ErrorCode): PipeTransform => ({
  transform(value: unknown) {
    if (!isId(prefix, value)) throw refuse(otherwise);
    return value;
  },
});

export const LicenseParam = () => Param('id', IdOf('lic', 'LICENSE_NOT_FOUND'));
