/** The database library that the services share. */
export { createPool, poolConfiguration } from './pool';
export type { Environment, PoolOptions } from './pool';
export { MigrationError } from './migrations/errors';
export type { Problem } from './migrations/errors';
export { readMigrationFiles } from './migrations/files';
export type { MigrationFile } from './migrations/files';
export { applyMigrations, assertSchemaIsCurrent, schemaStatus } from './migrations/runner';
export type { MigrationOptions, MigrationResult, SchemaStatus } from './migrations/runner';
export type * as auth from './schemas/auth';
export type * as deploy from './schemas/deploy';
export type * as registry from './schemas/registry';
export type * as verification from './schemas/verification';
