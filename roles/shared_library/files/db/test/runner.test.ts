// Run by `npm test` against a real PostgreSQL: TEST_DATABASE_URL is the login of a role that may create databases and
// roles. Each test has a database of its own.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, test } from 'node:test';
import { Client } from 'pg';
import { applyMigrations, createPool, MigrationError, schemaStatus, readMigrationFiles } from '../dist/index';

const SERVER = process.env.TEST_DATABASE_URL ?? '';
let [name, owner, directory] = ['', '', ''];
let client: Client;

const inDatabase = (database: string): string => {
  const url = new URL(SERVER);
  url.pathname = `/${database}`;
  return url.href;
};
const run = (options = {}): ReturnType<typeof applyMigrations> =>
  applyMigrations({ environment: { DATABASE_URL: inDatabase(name) }, directory, role: owner, ...options });
const write = (file: string, content: string): Promise<void> => writeFile(join(directory, file), content);

async function onServer(...statements: string[]): Promise<void> {
  const server = new Client({ connectionString: SERVER });
  await server.connect();
  for (const statement of statements) {
    await server.query(statement);
  }
  await server.end();
}

/** Asserts that the run is refused, and returns what it says. */
async function refused(options = {}): Promise<string> {
  const error: unknown = await run(options).then(
    () => undefined,
    (reason) => reason,
  );
  assert.ok(error instanceof MigrationError, String(error));
  return error.message;
}

const applied = async (): Promise<string[]> =>
  (await client.query<{ name: string }>('SELECT name FROM migration.applied_file ORDER BY number')).rows.map(
    (row) => row.name,
  );

beforeEach(async () => {
  name = `runner_${randomBytes(4).toString('hex')}`;
  owner = `owner_of_${name}`;
  await onServer(`CREATE ROLE ${owner}`, `CREATE DATABASE ${name} OWNER ${owner}`);
  directory = await mkdtemp(join(tmpdir(), 'runner-'));
  await write('001_shop.sql', 'CREATE SCHEMA shop;\nCREATE TABLE shop.goods (id serial PRIMARY KEY, name text);\n');
  client = new Client({ connectionString: inDatabase(name) });
  await client.connect();
});

afterEach(async () => {
  await client.end();
  await onServer(`DROP DATABASE ${name} WITH (FORCE)`, `DROP ROLE ${owner}`);
  await rm(directory, { recursive: true });
});

test('a file is applied once, and its catalog recorded', async () => {
  assert.deepEqual(await run(), { changed: true, applied: ['001_shop.sql'], drift: [] });
  assert.deepEqual(await run(), { changed: false, applied: [], drift: [] });
  const { rows } = await client.query<{ catalog: string[] }>('SELECT catalog FROM migration.applied_file');
  assert.deepEqual(rows[0]?.catalog, [
    'column shop.goods.id integer not null default nextval(\'shop.goods_id_seq\'::regclass)',
    'column shop.goods.name text',
    'constraint shop.goods.goods_pkey PRIMARY KEY (id)',
    'index CREATE UNIQUE INDEX goods_pkey ON shop.goods USING btree (id)',
    'schema shop',
    'sequence shop.goods_id_seq',
    'table shop.goods',
  ]);
});

test('check mode says what would be applied, and writes nothing', async () => {
  assert.deepEqual(await run({ checkMode: true }), { changed: true, applied: ['001_shop.sql'], drift: [] });
  const { rows } = await client.query("SELECT FROM pg_namespace WHERE nspname IN ('shop', 'migration')");
  assert.equal(rows.length, 0);
});

test('a failing file is rolled back whole, and named with its line; the files before it stay', async () => {
  await write('002_prices.sql', "-- prices\nCREATE TABLE shop.prices ();\n\nSELECT 'Käse 🧀',\n  wrong;\n");
  await write('003_later.sql', 'CREATE TABLE shop.later ();');
  const message = await refused();
  assert.match(message, /002_prices\.sql:5: column "wrong" does not exist \(SQLSTATE 42703\)/);
  assert.deepEqual(await applied(), ['001_shop.sql']);
  await client.query('SELECT FROM shop.goods');
  await assert.rejects(client.query('SELECT FROM shop.prices'));
  await write('002_prices.sql', 'CREATE TABLE shop.prices ();');
  assert.deepEqual((await run()).applied, ['002_prices.sql', '003_later.sql']);
});

test('edited, missing and late files are refused together, before anything is written', async () => {
  await write('004_more.sql', 'CREATE TABLE shop.more ();');
  await write('006_last.sql', 'CREATE TABLE shop.last ();');
  await run();
  await write('001_shop.sql', 'CREATE SCHEMA shop;');
  await rm(join(directory, '004_more.sql'));
  await write('005_late.sql', 'CREATE TABLE shop.late ();');
  const message = await refused();
  assert.match(message, /001_shop\.sql: was edited after it was applied/);
  assert.match(message, /004_more\.sql: was applied and is missing now/);
  assert.match(message, /005_late\.sql: is new, but 006_last\.sql with a higher number is applied already/);
  await assert.rejects(client.query('SELECT FROM shop.late'));
  const pool = createPool({ environment: { DATABASE_URL: inDatabase(name) } });
  const status = await schemaStatus(pool, await readMigrationFiles(directory));
  await pool.end();
  assert.equal(status.problems.length, 3);
});

test('a statement that would break the transaction or the session is refused, with its line', async () => {
  await write('002_bad.sql', 'CREATE TABLE shop.a ();\nCOMMIT;\nSET search_path TO shop;\nVACUUM;\nSET LOCAL a.b = 1;');
  await write('wrong-name.sql', 'SELECT 1;');
  const message = await refused();
  assert.match(message, /002_bad\.sql:2: 'COMMIT;' controls the transaction/);
  assert.match(message, /002_bad\.sql:3: 'SET search_path TO' changes the session/);
  assert.match(message, /002_bad\.sql:4: 'VACUUM;' cannot run inside a transaction/);
  assert.match(message, /wrong-name\.sql: is not named like/);
  assert.doesNotMatch(message, /002_bad\.sql:5/);
});

test('a table that was changed by hand stops the run, or is only reported', async () => {
  await run();
  await client.query('ALTER TABLE shop.goods ADD COLUMN by_hand text');
  await write('002_more.sql', 'CREATE TABLE shop.more ();');
  assert.match(await refused(), /not from our files: column shop\.goods\.by_hand text/);
  assert.deepEqual(await applied(), ['001_shop.sql']);
  const result = await run({ failOnDrift: false });
  assert.deepEqual(result.drift, ['not from our files: column shop.goods.by_hand text']);
  assert.deepEqual(result.applied, ['002_more.sql']);
});

test('it waits for a table that somebody has locked, by trying again', async () => {
  await run();
  await write('002_column.sql', 'ALTER TABLE shop.goods ADD COLUMN price integer;');
  await client.query('BEGIN; LOCK TABLE shop.goods IN SHARE MODE');
  const running = run({ lockTimeoutSeconds: 0.2 });
  await new Promise((resolve) => setTimeout(resolve, 900));
  await client.query('COMMIT');
  assert.deepEqual((await running).applied, ['002_column.sql']);
});

test('it gives up on a table that stays locked, and says so', async () => {
  await run();
  await write('002_column.sql', 'ALTER TABLE shop.goods ADD COLUMN price integer;');
  await client.query('BEGIN; LOCK TABLE shop.goods IN SHARE MODE');
  assert.match(await refused({ lockTimeoutSeconds: 0.05 }), /002_column\.sql:1: no lock within the time allowed, tried 5/);
  await client.query('ROLLBACK');
});

test('two runs at once apply each file once', async () => {
  await write('002_slow.sql', 'SELECT pg_sleep(0.5);');
  const results = await Promise.all([run(), run(), run()]);
  assert.equal(results.filter(({ changed }) => changed).length, 1);
  assert.deepEqual(await applied(), ['001_shop.sql', '002_slow.sql']);
});

test('it names who holds the lock, when that one does not end', async () => {
  await client.query("SELECT pg_advisory_lock(x'4d494752'::integer, hashtext('schema'))");
  assert.match(await refused({ waitSeconds: 0.2 }), /session \d+ of \w+ holds its lock/);
});

test('it acts as the owner, and a role that it may not become is named', async () => {
  await run();
  const { rows } = await client.query("SELECT tableowner FROM pg_tables WHERE schemaname IN ('shop', 'migration')");
  assert.ok(rows.length > 5 && rows.every((row) => row.tableowner === owner));
  assert.match(await refused({ role: 'nobody_there' }), /role nobody_there: role "nobody_there" does not exist/);
});

test('a run whose connection is cut writes nothing of the file, and the next run finishes', async () => {
  await run();
  await write('002_slow.sql', 'CREATE TABLE shop.more ();\nSELECT pg_sleep(10);');
  const running = refused();
  for (;;) {
    const { rowCount } = await client.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(10)%' AND pid <> pg_backend_pid()",
    );
    if (rowCount) {
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.match(await running, /terminat|connection/i);
  assert.deepEqual(await applied(), ['001_shop.sql']);
  await write('002_slow.sql', 'CREATE TABLE shop.more ();');
  assert.deepEqual((await run()).applied, ['002_slow.sql']);
});

test('no password stands in a message', async () => {
  const url = new URL(inDatabase(name));
  url.password = 'kept-secret';
  const message = await refused({ environment: { DATABASE_URL: url.href } });
  assert.match(message, /password authentication failed/);
  assert.doesNotMatch(message, /kept-secret/);
});
