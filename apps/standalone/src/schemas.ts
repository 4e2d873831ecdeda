import { accessSchema } from '@keyledger/access';
import { activationSchema } from '@keyledger/activation';
import { catalogSchema } from '@keyledger/catalog';
import { authoritySchema } from '@keyledger/license-authority';
import { notifierSchema } from '@keyledger/notifier';
import { signingSchema } from '@keyledger/signing';
import { usageSchema } from '@keyledger/usage-metering';

/** The tables of every service: all that an installation keeps beside its log. */
export const schemas = [accessSchema, catalogSchema, authoritySchema, activationSchema, signingSchema, usageSchema, notifierSchema];
