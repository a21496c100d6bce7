import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ClientBase, DatabaseError, Pool } from 'pg';
import { MigrationError, type Problem } from './errors';
import type { MigrationFile } from './files';

/** What can be asked: a pool, or one client. */
export type Database = Pick<Pool, 'query'> | Pick<ClientBase, 'query'>;

/** What the ledger keeps of an applied file, as far as it decides anything. */
export type AppliedFile = Pick<MigrationFile, 'number' | 'name' | 'sha256'>;

/** The first half of every advisory lock of the migration: 'MIGR' in ASCII. */
const LOCK_CLASS = 0x4d494752;
const LOCK_NAME = 'schema';
const LOCK_NOT_AVAILABLE = '55P03';

/** Reads one of the statements that the package has from the migration's own Python, so that both always agree. */
export async function readStatement(name: 'create_ledger' | 'describe_catalog'): Promise<string> {
  return readFile(join(__dirname, '..', '..', 'ledger', `${name}.sql`), 'utf8');
}

/** Tells whether the ledger has been created in this database. */
export async function ledgerExists(database: Database): Promise<boolean> {
  const { rows } = await database.query<{ exists: boolean }>(
    "SELECT to_regclass('migration.cutover_group') IS NOT NULL AS exists",
  );
  return rows[0]?.exists === true;
}

/** Tells whether every table of the ledger is there; an older release made fewer. */
export async function ledgerIsComplete(database: Database, createLedger: string): Promise<boolean> {
  const names = [...createLedger.matchAll(/TABLE IF NOT EXISTS (migration\.\w+)/g)].map((match) => match[1]);
  const { rows } = await database.query<{ complete: boolean }>(
    'SELECT bool_and(to_regclass(name) IS NOT NULL) AS complete FROM unnest($1::text[]) AS name',
    [names],
  );
  return rows[0]?.complete === true;
}

/** Returns the applied files in their order: none in a database that has no ledger yet. */
export async function readApplied(database: Database): Promise<AppliedFile[]> {
  if (!(await ledgerExists(database))) {
    return [];
  }
  const { rows } = await database.query<AppliedFile>(
    'SELECT number, name, sha256 FROM migration.applied_file ORDER BY number',
  );
  return rows;
}

/**
 * Returns the files to apply, and what keeps them from it: an applied file that was edited, renamed or removed, or a new
 * one that comes too early.
 */
export function compareWithLedger(
  files: readonly MigrationFile[],
  applied: readonly AppliedFile[],
): { pending: MigrationFile[]; problems: Problem[] } {
  const problems: Problem[] = [];
  for (const { number, name, sha256 } of applied) {
    const file = files.find((candidate) => candidate.number === number);
    if (file === undefined) {
      problems.push({
        where: name,
        what: 'was applied and is missing now',
        fix: 'Put it back; to undo it add a new file',
      });
    } else if (file.name !== name) {
      problems.push({
        where: file.name,
        what: `was applied under the name ${name}`,
        fix: 'Give it its old name again',
      });
    } else if (file.sha256 !== sha256) {
      problems.push({
        where: name,
        what: 'was edited after it was applied',
        fix: 'Restore it, and put the change into a new file',
      });
    }
  }
  const pending = files.filter(({ number }) => applied.every((known) => known.number !== number));
  const last = applied.at(-1);
  for (const { number, name } of pending) {
    if (last !== undefined && number < last.number) {
      problems.push({
        where: name,
        what: `is new, but ${last.name} with a higher number is applied already`,
        fix: `Give it a number above ${String(last.number).padStart(3, '0')}`,
      });
    }
  }
  return { pending, problems };
}

/**
 * Holds the lock of the schema for a session while `work` runs. It is the lock of schema_apply, so that one waits for
 * the other; it ends with the connection, even if this process is killed.
 *
 * @throws MigrationError naming the session that holds it.
 */
export async function withSchemaLock<Result>(
  client: ClientBase,
  waitSeconds: number,
  work: () => Promise<Result>,
): Promise<Result> {
  await client.query("SELECT set_config('lock_timeout', $1, false)", [milliseconds(waitSeconds)]);
  try {
    await client.query('SELECT pg_advisory_lock($1::integer, hashtext($2))', [LOCK_CLASS, LOCK_NAME]);
  } catch (error) {
    if ((error as DatabaseError).code !== LOCK_NOT_AVAILABLE) {
      throw error;
    }
    const { rows } = await client.query<{ pid: number; usename: string }>(
      `SELECT a.pid, a.usename FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1
       AND l.objid = (hashtext($2)::bigint & 4294967295)::oid`,
      [LOCK_CLASS, LOCK_NAME],
    );
    const holder = rows[0] === undefined ? 'another session' : `session ${rows[0].pid} of ${rows[0].usename}`;
    const fix = 'Wait until that run has ended, then run again';
    throw new MigrationError('Another run is at work on schema.', [
      { where: 'schema', what: `${holder} holds its lock`, fix },
    ]);
  }
  await client.query("SELECT set_config('lock_timeout', '0', false)");
  try {
    return await work();
  } finally {
    // If the connection is lost, so is the lock.
    await client.query('SELECT pg_advisory_unlock($1::integer, hashtext($2))', [LOCK_CLASS, LOCK_NAME]).catch(() => {});
  }
}

/** Returns a number of seconds as PostgreSQL's settings take it. */
export function milliseconds(seconds: number): string {
  return `${Math.trunc(seconds * 1000)}ms`;
}
