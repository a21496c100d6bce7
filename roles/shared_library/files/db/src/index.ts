/** The database library that the services share. */
export { createPool, poolConfiguration } from './pool';
export type { Environment, PoolOptions } from './pool';
export { assertSchemaIsCurrent, readMigrationFiles, schemaStatus } from './migrations/runner';
export type { MigrationFile, SchemaStatus } from './migrations/runner';
export type * as auth from './schemas/auth';
export type * as deploy from './schemas/deploy';
export type * as registry from './schemas/registry';
export type * as verification from './schemas/verification';
