import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Pool } from 'pg';

/** One numbered SQL file of the schema. */
export interface MigrationFile {
  number: number;
  name: string;
  sha256: string;
}

/** What the ledger says of the files. */
export interface SchemaStatus {
  /** Names of the files that are applied as they are. */
  applied: string[];
  /** Names of the files that the ledger does not know yet. */
  pending: string[];
  /** Names of the files that were edited, renamed or removed after they were applied. */
  changed: string[];
}

const FILE_NAME = /^(\d{3})_[a-z0-9_]+\.sql$/;

/** Reads the SQL files of a directory, in their order, with the hash that the ledger keeps of each. */
export async function readMigrationFiles(directory: string): Promise<MigrationFile[]> {
  const files: MigrationFile[] = [];
  for (const name of (await readdir(directory)).sort()) {
    const match = FILE_NAME.exec(name);
    if (match !== null) {
      const sha256 = createHash('sha256').update(await readFile(join(directory, name))).digest('hex');
      files.push({ number: Number(match[1]), name, sha256 });
    }
  }
  return files;
}

/**
 * Compares SQL files with the ledger, `migration.applied_file`, which the role schema_apply writes.
 *
 * The login needs SELECT on that table: it is the migrator's, not a service's own.
 */
export async function schemaStatus(pool: Pool, files: readonly MigrationFile[]): Promise<SchemaStatus> {
  const { rows } = await pool.query<{ number: number; name: string; sha256: string }>(
    'SELECT number, name, sha256 FROM migration.applied_file ORDER BY number',
  );
  const known = new Map(rows.map((row) => [row.number, row]));
  const status: SchemaStatus = { applied: [], pending: [], changed: [] };
  for (const file of files) {
    const row = known.get(file.number);
    known.delete(file.number);
    if (row === undefined) {
      status.pending.push(file.name);
    } else if (row.name === file.name && row.sha256 === file.sha256) {
      status.applied.push(file.name);
    } else {
      status.changed.push(file.name);
    }
  }
  status.changed.push(...[...known.values()].map((row) => row.name));
  return status;
}

/**
 * Does nothing if every file is applied as it is.
 *
 * @throws Error naming the files that are not.
 */
export async function assertSchemaIsCurrent(pool: Pool, directory: string): Promise<void> {
  const { pending, changed } = await schemaStatus(pool, await readMigrationFiles(directory));
  const problems = [
    ...pending.map((name) => `${name} is not applied yet`),
    ...changed.map((name) => `${name} is not as it was applied`),
  ];
  if (problems.length > 0) {
    throw new Error(`The schema is not current: ${problems.join('; ')}. Run playbooks/1_infrastructure.yml.`);
  }
}
