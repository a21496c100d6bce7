import { setTimeout as sleep } from 'node:timers/promises';
import { Client, DatabaseError, type ClientBase } from 'pg';
import { poolConfiguration, type Environment } from '../pool';
import { MigrationError } from './errors';
import { IN_TRANSACTION, OWN_FILES, readMigrationFiles, type MigrationFile } from './files';
import {
  compareWithLedger,
  ledgerExists,
  ledgerIsComplete,
  milliseconds,
  readApplied,
  readStatement,
  withSchemaLock,
  type Database,
} from './ledger';
import { lineAt, splitStatements, type Statement } from './statements';

/** How the files and the ledger go together. */
export interface SchemaStatus {
  /** Names of the files that are applied as they are. */
  applied: string[];
  /** Names of the files that the ledger does not know yet. */
  pending: string[];
  /** One sentence for each file that does not fit what is applied; no runner goes on then. */
  problems: string[];
}

/** How to apply the files. */
export interface MigrationOptions {
  /** Where the login is read from; the process's own environment if not given. */
  environment?: Environment;
  /** Where the files are; those that the library was built with if not given. */
  directory?: string;
  /** Role to become after the login: the owner of the tables. The role that logs in if not given. */
  role?: string;
  /** Say what would be applied, and write nothing. */
  checkMode?: boolean;
  /** Refuse if the catalog is not as the last file left it, which is usual; else only report it. */
  failOnDrift?: boolean;
  /** How long a statement waits for a lock before its file is tried again; 5 if not given. */
  lockTimeoutSeconds?: number;
  /** How long to wait for another run, this one's or schema_apply's; 10 if not given. */
  waitSeconds?: number;
}

/** What was done. */
export interface MigrationResult {
  changed: boolean;
  /** Names of the files that were applied, or in check mode would be. */
  applied: string[];
  /** One line for each difference between the catalog and what the last file left. */
  drift: string[];
}

/** A statement that says who owns something or may use it. */
const GIVES_AWAY = /^(alter\b.*\bowner\s+to|grant|revoke|alter\s+default\s+privileges)\b/isu;
const LOCK_ATTEMPTS = 5;
const NO_LOCK = new Set(['55P03', '40P01']);
const EXISTS_ALREADY = new Set(['42P06', '42P07', '42710']);
const INSUFFICIENT_PRIVILEGE = '42501';
const IN_A_TRANSACTION = '25001';
/** Defaults that hold times or numbers read the same in the catalog, whatever the role's own settings are. */
const SETTINGS: Readonly<Record<string, string>> = {
  timezone: 'UTC',
  datestyle: 'ISO',
  intervalstyle: 'postgres',
  extra_float_digits: '1',
  client_min_messages: 'warning',
};

/**
 * Compares SQL files with the ledger, `migration.applied_file`, and writes nothing.
 *
 * The login needs SELECT on that table: it is the migrator's, not a service's own.
 */
export async function schemaStatus(database: Database, files: readonly MigrationFile[]): Promise<SchemaStatus> {
  const known = await readApplied(database);
  const { pending, problems } = compareWithLedger(files, known);
  const fits = (file: MigrationFile): boolean =>
    known.some(({ number, name, sha256 }) => number === file.number && name === file.name && sha256 === file.sha256);
  return {
    applied: files.filter(fits).map(({ name }) => name),
    pending: pending.map(({ name }) => name),
    problems: problems.map(({ where, what }) => `${where} ${what}`),
  };
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
    throw new Error(`The schema is not the library's: ${found.join('; ')}. Phases 1 and 2 of the migration bring both up to date.`);
  }
}

/**
 * Applies the files that the ledger does not know yet: each once, in order, with its row of the ledger, or not at all.
 *
 * It is schema_apply in another language: the same lock, refusals and rows, so that each takes the other's work for
 * done. The services' privileges on new tables follow from the defaults that schema_apply has set for their schemas; on
 * a new schema from its next run.
 *
 * @throws MigrationError before anything is written, or after the failing file was rolled back.
 */
export async function applyMigrations(options: MigrationOptions = {}): Promise<MigrationResult> {
  const { environment = process.env, role, waitSeconds = 10 } = options;
  const files = await readMigrationFiles(options.directory);
  const client = new Client(poolConfiguration({ environment }));
  // A connection that breaks fails the statement that runs; without a listener it would end the process as well.
  client.on('error', () => {});
  try {
    await client.connect();
    await prepareSession(client, role);
    return await withSchemaLock(client, waitSeconds, () => bringUpToDate(client, files, options));
  } catch (error) {
    throw explained(error);
  } finally {
    await client.end().catch(() => {});
  }
}

/** Sets what the catalog's wording depends on, and becomes the owner. */
async function prepareSession(client: ClientBase, role: string | undefined): Promise<void> {
  for (const [name, value] of Object.entries(SETTINGS)) {
    await client.query('SELECT set_config($1, $2, false)', [name, value]);
  }
  if (role !== undefined) {
    await client.query("SELECT set_config('role', $1, false)", [role]).catch((error: Error) => {
      const fix = 'Run phase 1 of the migration, which creates the roles and their memberships';
      const problem = { where: `role ${role}`, what: error.message, fix };
      throw new MigrationError('Logged in, but cannot act as the owner.', [problem]);
    });
  }
}

/** Does the work of {@link applyMigrations} under the lock. */
async function bringUpToDate(
  client: ClientBase,
  files: readonly MigrationFile[],
  { checkMode = false, failOnDrift = true, lockTimeoutSeconds = 5 }: MigrationOptions,
): Promise<MigrationResult> {
  const createLedger = await readStatement('create_ledger');
  const known = await ledgerExists(client);
  const complete = known && (await ledgerIsComplete(client, createLedger));
  if (!complete && !checkMode) {
    await inTransaction(client, () => client.query(createLedger));
  }
  const applied = known ? await readApplied(client) : [];
  const { pending, problems } = compareWithLedger(files, applied);
  if (problems.length > 0) {
    throw new MigrationError('The SQL files do not fit what is already applied.', problems);
  }
  const drift = applied.length > 0 ? await findDrift(client, lockTimeoutSeconds) : [];
  if (drift.length > 0 && failOnDrift) {
    const fix = 'Undo the change, or put it into a new file and let drift only be reported for one run';
    const violations = drift.map((what) => ({ where: 'target database', what, fix }));
    throw new MigrationError('The tables in the database are not as the applied files left them.', violations);
  }
  for (const file of checkMode ? [] : pending) {
    await applyFile(client, file, lockTimeoutSeconds);
  }
  return { changed: pending.length > 0 || !complete, applied: pending.map(({ name }) => name), drift };
}

/** Applies one file and records it, in one transaction; retries a few times while somebody else holds a lock. */
async function applyFile(client: ClientBase, file: MigrationFile, lockTimeoutSeconds: number): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const started = process.hrtime.bigint();
    try {
      await inTransaction(client, async () => {
        await limitWaiting(client, lockTimeoutSeconds);
        for (const statement of splitStatements(file.content)) {
          await execute(client, file, statement);
        }
        const duration = Number((process.hrtime.bigint() - started) / 1_000_000n);
        await client.query(
          'INSERT INTO migration.applied_file (number, name, sha256, duration_ms, catalog) VALUES ($1, $2, $3, $4, $5)',
          [file.number, file.name, file.sha256, duration, JSON.stringify(await describeCatalog(client))],
        );
      });
      // What a function or a block of the file has set for the session is not the next file's.
      await client.query('RESET ALL');
      await prepareSession(client, undefined);
      return;
    } catch (error) {
      if (!(error instanceof LockTimeout) || attempt === LOCK_ATTEMPTS) {
        throw error;
      }
      await sleep(500 * attempt);
    }
  }
}

/** A statement that did not get a lock: worth another attempt. */
class LockTimeout extends MigrationError {}

/** Executes one statement; an error names file, line, SQLSTATE and PostgreSQL's own words. */
async function execute(
  client: ClientBase,
  file: MigrationFile,
  { text, line, executed, code: statement }: Statement,
): Promise<void> {
  if (executed === '') {
    return;
  }
  try {
    await client.query(executed);
  } catch (error) {
    if (!(error instanceof DatabaseError)) {
      throw error;
    }
    const code = error.code ?? '';
    // PostgreSQL counts characters, JavaScript the halves of some.
    const before = [...text].slice(0, Math.max(0, Number(error.position ?? 1) - 1)).join('');
    let what = [error.message, error.detail, error.hint].filter(Boolean).join('; ');
    let fix = 'Correct the file, then run again';
    if (NO_LOCK.has(code)) {
      what = `no lock within the time allowed, tried ${LOCK_ATTEMPTS} times`;
      fix = 'End the session that holds the lock, then run again';
    } else if (code === IN_A_TRANSACTION) {
      fix = IN_TRANSACTION;
    } else if (EXISTS_ALREADY.has(code)) {
      fix = 'If it was made by hand, drop or rename it; else correct the file. Then run again';
    } else if (GIVES_AWAY.test(statement)) {
      fix =
        'Leave it out, as pg_dump -s --no-owner --no-privileges does: all objects belong to the owner, and the estate ' +
        'says who may use them. Then run again';
    } else if (code === INSUFFICIENT_PRIVILEGE) {
      fix = 'The files are applied as the owner of the tables, not as a superuser. Correct the file, then run again';
    }
    const kind = NO_LOCK.has(code) ? LockTimeout : MigrationError;
    throw new kind(`${file.name} was rolled back: nothing of it is applied. The files before it are.`, [
      { where: `${file.name}:${line + lineAt(before, before.length) - 1}`, what: `${what} (SQLSTATE ${code})`, fix },
    ]);
  }
}

/** Returns one line for each object in the schemas that the current role owns, sorted, for this transaction. */
async function describeCatalog(client: ClientBase): Promise<string[]> {
  await client.query("SELECT set_config('search_path', '', true)");
  const { rows } = await client.query<[string]>({ text: await readStatement('describe_catalog'), rowMode: 'array' });
  // By character, as Python sorts.
  return rows.map(([line]) => line).sort((one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)));
}

/** Returns how the catalog differs from what the last file left, one line for each difference. */
async function findDrift(client: ClientBase, lockTimeoutSeconds: number): Promise<string[]> {
  return inTransaction(client, async () => {
    await limitWaiting(client, lockTimeoutSeconds);
    const { rows } = await client.query<{ catalog: string[] }>(
      'SELECT catalog FROM migration.applied_file ORDER BY number DESC LIMIT 1',
    );
    const expected = rows[0]?.catalog ?? [];
    const found = await describeCatalog(client).catch((error: DatabaseError) => {
      if (!NO_LOCK.has(error.code ?? '')) {
        throw error;
      }
      const what = 'another session has a table locked against everybody';
      const fix = 'End the session that holds the lock, then run again';
      throw new MigrationError('The tables in the database cannot be looked at.', [
        { where: 'target database', what, fix },
      ]);
    });
    return [
      ...expected.filter((line) => !found.includes(line)).map((line) => `missing: ${line}`),
      ...found.filter((line) => !expected.includes(line)).map((line) => `not from our files: ${line}`),
    ];
  });
}

/** Lets no statement of this transaction wait longer for a lock. */
async function limitWaiting(client: ClientBase, seconds: number): Promise<void> {
  await client.query("SELECT set_config('lock_timeout', $1, true)", [milliseconds(seconds)]);
}

/** Commits what `work` does, all of it or nothing. */
async function inTransaction<Result>(client: ClientBase, work: () => Promise<Result>): Promise<Result> {
  await client.query('BEGIN');
  try {
    const result = await work();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    // If the connection is lost, the server has rolled back already.
    await client.query('ROLLBACK').catch(() => {});
    throw error;
  }
}

/** Turns an error that nothing nearer has explained into one that a person can act on. */
function explained(error: unknown): unknown {
  if (error instanceof MigrationError) {
    return error;
  }
  if (!(error instanceof DatabaseError)) {
    const what = error instanceof Error ? error.message : String(error);
    const fix = 'Check DATABASE_URL or the PG variables, and that the server runs; then run again';
    return new MigrationError('PostgreSQL cannot be asked.', [{ where: 'target database', what, fix }]);
  }
  // The server logs why it ends a session, but nothing of the migrator's statements.
  let fix =
    error.code === undefined || /^(08|57P)/u.test(error.code)
      ? "Look at the server's log for why it ended the connection, then run again: what is applied is in the ledger"
      : 'Correct what the server says here, then run again: what is applied is in the ledger';
  if (error.code === INSUFFICIENT_PRIVILEGE) {
    fix = "Log in as the migrator and act as the owner; phase 1 of the migration sets these roles' rights";
  }
  const what = `${error.message}${error.code === undefined ? '' : ` (SQLSTATE ${error.code})`}`;
  return new MigrationError('PostgreSQL refused while applying the SQL files.', [
    { where: 'target database', what, fix },
  ]);
}
