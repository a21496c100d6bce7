import { createHash } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { MigrationError, type Problem } from './errors';
import { BLANK, splitStatements } from './statements';

/** One numbered SQL file of the schema. */
export interface MigrationFile {
  number: number;
  name: string;
  /** The hash that the ledger keeps. */
  sha256: string;
  content: string;
}

/** The SQL files that this version of the library was built with. */
export const OWN_FILES = join(__dirname, '..', '..', 'migrations');
export const IN_TRANSACTION = 'Write it in another way: a file that is applied only in part could not be repeated';

const FILE_NAME = /^(\d{3})_[a-z0-9_]+\.sql$/;
// The edges of a word, also of one with letters that are not English.
const FROM = String.raw`(?<![\p{L}\p{N}_])`;
const TO = String.raw`(?![\p{L}\p{N}_])`;
const S = `[${BLANK}]`;
/** What a statement's code must not begin with, what is wrong with it, and what to do. */
const FORBIDDEN = [
  {
    pattern:
      String.raw`(begin|start${S}+transaction|commit|end|rollback|abort|savepoint|release|prepare${S}+transaction)${TO}`,
    what: 'controls the transaction',
    fix: 'Remove the statement: each file is one transaction already',
  },
  {
    pattern:
      String.raw`(vacuum|create${S}+database|drop${S}+database|alter${S}+system|(create|drop)${S}+tablespace` +
      String.raw`|reindex${S}.*${FROM}concurrently|(create(${S}+unique)?|drop)${S}+index${S}+concurrently)${TO}`,
    what: 'cannot run inside a transaction',
    fix: IN_TRANSACTION,
  },
  {
    pattern:
      String.raw`(reset|discard|set(${S}+(session|local))?${S}+(role|session${S}+authorization)` +
      String.raw`|set(?!${S}+(local|constraints|transaction)${TO}))${TO}`,
    what: 'changes the session, and with it every file that follows',
    fix: 'Write SET LOCAL for a setting; leave the role alone, all objects belong to the owner',
  },
  {
    pattern: String.raw`select${TO}.*${FROM}set_config${S}*\(.*,${S}*false${S}*\)`,
    what: 'changes the session, and with it every file that follows',
    fix: 'Write true in place of false: then it holds for this file',
  },
  {
    pattern: String.raw`copy${TO}.*${FROM}(stdin|stdout)${TO}`,
    what: 'needs a client that sends or reads the rows',
    fix: 'Write the rows as INSERT',
  },
  {
    pattern: String.raw`\\`,
    what: 'is a command of psql, not SQL',
    fix: 'Write it as SQL: the files are not applied by psql',
  },
].map(({ pattern, ...rest }) => ({ ...rest, pattern: new RegExp(`^(?:${pattern})`, 'isu') }));

/**
 * Reads the SQL files of a directory in their order, after checking what can be checked without a server.
 *
 * @param directory where the files are; those that the library was built with if not given.
 * @throws MigrationError with every problem in every file.
 */
export async function readMigrationFiles(directory: string = OWN_FILES): Promise<MigrationFile[]> {
  const files: MigrationFile[] = [];
  const problems: Problem[] = [];
  for (const name of (await readdir(directory)).filter((entry) => entry.endsWith('.sql')).sort()) {
    const number = Number(FILE_NAME.exec(name)?.[1] ?? NaN);
    const other = files.find((file) => file.number === number);
    if (Number.isNaN(number)) {
      problems.push({ where: name, what: 'is not named like 001_create_tables.sql', fix: 'Rename it' });
    } else if (other !== undefined) {
      problems.push({ where: name, what: `has the number of ${other.name}`, fix: 'Give it a number of its own' });
    } else {
      const bytes = await readFile(join(directory, name));
      const content = bytes.toString('utf8');
      files.push({ number, name, sha256: createHash('sha256').update(bytes).digest('hex'), content });
      problems.push(...forbiddenStatements(name, content));
    }
  }
  if (files.length === 0 && problems.length === 0) {
    problems.push({ where: directory, what: 'holds no .sql file', fix: "Put the schema's files there" });
  }
  if (problems.length > 0) {
    throw new MigrationError('The SQL files cannot be applied as they are.', problems);
  }
  return files;
}

/** Returns what in a file could not be applied as a whole, or would change what comes after it. */
function forbiddenStatements(name: string, content: string): Problem[] {
  // What pg_dump writes about its session is handled.
  return splitStatements(content).flatMap(({ text, executed, code, line }) =>
    FORBIDDEN.filter(({ pattern }) => executed === text && pattern.test(code)).map(({ what, fix }) => {
      const first = code.split(new RegExp(`${S}+`)).filter(Boolean).slice(0, 3).join(' ');
      return { where: `${name}:${line}`, what: `'${first}' ${what}`, fix };
    }),
  );
}
