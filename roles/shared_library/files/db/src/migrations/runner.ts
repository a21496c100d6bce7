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

/** How the files and the ledger go together. */
export interface SchemaStatus {
  /** Names of the files that are applied as they are. */
  applied: string[];
  /** Names of the files that the ledger does not know yet. */
  pending: string[];
  /** One sentence for each file that does not fit what is applied; schema_apply refuses these too. */
  problems: string[];
}

/** What can be asked: a pool, or one of its clients inside a transaction. */
type Database = Pick<Pool, 'query'>;

/** The SQL files that this version of the library was built with. */
const OWN_FILES = join(__dirname, '..', '..', 'migrations');
const FILE_NAME = /^(\d{3})_[a-z0-9_]+\.sql$/;

/**
 * Reads the SQL files of a directory, in their order, with the hash that the ledger keeps of each.
 *
 * @param directory where the files are; those that the library was built with if not given.
 * @throws Error naming a file whose name has no number, or the number of another file.
 */
export async function readMigrationFiles(directory: string = OWN_FILES): Promise<MigrationFile[]> {
  const files: MigrationFile[] = [];
  for (const name of (await readdir(directory)).filter((entry) => entry.endsWith('.sql')).sort()) {
    const number = Number(FILE_NAME.exec(name)?.[1] ?? NaN);
    if (Number.isNaN(number)) {
      throw new Error(`${name} is not named like 001_create_tables.sql.`);
    }
    const previous = files.at(-1);
    if (previous?.number === number) {
      throw new Error(`${name} has the number of ${previous.name}.`);
    }
    const sha256 = createHash('sha256').update(await readFile(join(directory, name))).digest('hex');
    files.push({ number, name, sha256 });
  }
  return files;
}

/**
 * Compares SQL files with the ledger, `migration.applied_file`. Reads only: the role schema_apply is the one writer.
 *
 * The login needs SELECT on that table: it is the migrator's, not a service's own.
 */
export async function schemaStatus(database: Database, files: readonly MigrationFile[]): Promise<SchemaStatus> {
  const missing = new Map((await readLedger(database)).map((file) => [file.number, file]));
  const last = Math.max(0, ...missing.keys());
  const status: SchemaStatus = { applied: [], pending: [], problems: [] };
  for (const file of files) {
    const known = missing.get(file.number);
    missing.delete(file.number);
    if (known === undefined) {
      status.pending.push(file.name);
      if (file.number < last) {
        status.problems.push(`${file.name} is new, but a file with a higher number is applied already`);
      }
    } else if (known.name !== file.name) {
      status.problems.push(`${file.name} was applied under the name ${known.name}`);
    } else if (known.sha256 !== file.sha256) {
      status.problems.push(`${file.name} was edited after it was applied`);
    } else {
      status.applied.push(file.name);
    }
  }
  for (const file of missing.values()) {
    status.problems.push(`${file.name} was applied and is missing here`);
  }
  return status;
}

/**
 * Does nothing if every file is applied as it is.
 *
 * @param directory where the files are; those that the library was built with if not given.
 * @throws Error naming every file that is not.
 */
export async function assertSchemaIsCurrent(database: Database, directory: string = OWN_FILES): Promise<void> {
  const { pending, problems } = await schemaStatus(database, await readMigrationFiles(directory));
  const found = [...pending.map((name) => `${name} is not applied yet`), ...problems];
  if (found.length > 0) {
    throw new Error(`The schema is not the library's: ${found.join('; ')}. Run playbooks/1_infrastructure.yml, then 2.`);
  }
}

/** Returns the applied files in their order: none in a database that has no ledger yet. */
async function readLedger(database: Database): Promise<MigrationFile[]> {
  const ledger = await database.query<{ exists: boolean }>(
    "SELECT to_regclass('migration.applied_file') IS NOT NULL AS exists",
  );
  if (!ledger.rows[0]?.exists) {
    return [];
  }
  const { rows } = await database.query<MigrationFile>(
    'SELECT number, name, sha256 FROM migration.applied_file ORDER BY number',
  );
  return rows;
}
