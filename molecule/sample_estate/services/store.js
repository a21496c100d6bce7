'use strict';
// The one store of a service: a SQLite file, or PostgreSQL if PGHOST or DATABASE_URL is set. Both answer alike:
// JSON values as values, times as ISO strings, booleans as booleans, ids as they stand in that store.

// For every table, by its name in PostgreSQL: its name in SQLite, and the columns that the stores keep differently.
const TABLES = {
  'auth.users': { sqlite: 'users', times: ['last_login', 'created_at'] },
  'auth.roles': { sqlite: 'roles', times: ['created_at'] },
  'auth.permissions': { sqlite: 'permissions', times: ['created_at'] },
  'auth.role_permissions': { sqlite: 'role_permissions', key: 'role_id', times: ['created_at'] },
  'registry.agents': {
    sqlite: 'agents',
    json: ['capabilities', 'inputs_schema', 'outputs_schema', 'triggers', 'tags'],
    times: ['created_at', 'updated_at'],
  },
  'registry.workflows': {
    sqlite: 'workflows',
    json: ['trigger_config', 'steps', 'variables', 'on_error', 'on_success', 'tags'],
    times: ['created_at', 'updated_at'],
    booleans: ['enabled'],
  },
  'registry.workflow_runs': {
    sqlite: 'workflow_runs',
    json: ['trigger_data', 'step_results'],
    times: ['started_at', 'completed_at', 'created_at'],
  },
  'registry.step_executions': {
    sqlite: 'step_executions',
    json: ['inputs', 'outputs'],
    times: ['queued_at', 'started_at', 'completed_at'],
  },
  'registry.secrets': { sqlite: 'secrets', times: ['created_at', 'updated_at'] },
  'registry.triggers': { sqlite: 'triggers', times: ['next_run_at', 'created_at'], booleans: ['enabled'] },
  'registry.vm_assignments': { sqlite: 'vm_assignments', key: 'vm_id', times: ['assigned_at', 'heartbeat_at'] },
  'registry.execution_artifacts': { sqlite: 'execution_artifacts', times: ['created_at'] },
  'deploy.deployments': { sqlite: 'deployments', times: ['started_at', 'completed_at', 'created_at'] },
  'deploy.deployment_events': { sqlite: 'deployment_events', json: ['details'], times: ['created_at'] },
  'deploy.queue': { sqlite: 'deploy_queue', times: ['queued_at', 'deployed_at'] },
  'deploy.commit_ticket_map': { sqlite: 'commit_ticket_map', key: 'commit_sha', times: ['created_at'] },
  'verification.attempts': {
    sqlite: 'verification_attempts',
    json: ['static_result', 'automated_result', 'sentinel_result'],
    times: ['created_at'],
  },
};

const ANSWER_TIMEOUT_MS = 5000;
// The library gives up after two seconds. A machine on which many test hosts run takes longer to open a connection.
const CONNECTION_TIMEOUT_MS = 20000;

// What a caller asks for cannot be done, and why; `status` is the HTTP status that says so.
class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function isoTime(value) {
  if (value === null || value === undefined) return null;
  if (value instanceof Date) return value.toISOString();
  if (/^\d+(\.\d+)?$/.test(String(value))) return new Date(Number(value)).toISOString();
  // CURRENT_TIMESTAMP is UTC and does not say so.
  const text = String(value);
  const time = new Date(/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?$/.test(text) ? `${text.replace(' ', 'T')}Z` : text);
  return Number.isNaN(time.getTime()) ? text : time.toISOString();
}

function jsonValue(value) {
  if (typeof value !== 'string') return value;
  try {
    return JSON.parse(value);
  } catch {
    // Early writers stored free text in JSON columns.
    return value;
  }
}

// Return the SQL of one statement with `?` marks, and its values. `encode` prepares one value for the store.
function statement(change, name, encode) {
  const where = Object.keys(change.where || {});
  const condition = where.length ? ` WHERE ${where.map((column) => `${column} = ?`).join(' AND ')}` : '';
  const given = where.map((column) => change.where[column]);
  const columns = Object.keys(change.row || {}).filter((column) => change.row[column] !== undefined);
  const values = columns.map((column) => encode(column, change.row[column]));
  switch (change.kind) {
    case 'insert': {
      const marks = columns.map(() => '?').join(', ');
      return [`INSERT INTO ${name} (${columns.join(', ')}) VALUES (${marks})`, values];
    }
    case 'update':
      return [`UPDATE ${name} SET ${columns.map((column) => `${column} = ?`).join(', ')}${condition}`, [...values, ...given]];
    case 'remove':
      return [`DELETE FROM ${name}${condition}`, given];
    case 'count':
      return [`SELECT count(*) AS rows FROM ${name}${condition}`, given];
    default:
      return [`SELECT * FROM ${name}${condition} ORDER BY ${change.key} LIMIT ${change.limit}`, given];
  }
}

// What both stores share. Each has `name`, `query(table, change)`, `write(changes)` and `close()`.
class Store {
  // Return rows of a table, at most `limit`, ordered by its key.
  async find(table, where = {}, limit = 1000) {
    const description = TABLES[table];
    const rows = await this.query(table, { kind: 'select', where, limit, key: description.key || 'id' });
    return rows.map((row) => this.decode(description, row));
  }

  // Return one row of a table, or undefined.
  async findOne(table, where) {
    return (await this.find(table, where, 1))[0];
  }

  // Return how many rows a table has.
  async count(table, where = {}) {
    return Number((await this.query(table, { kind: 'count', where }))[0].rows);
  }

  decode({ json = [], times = [], booleans = [] }, row) {
    const decoded = { ...row };
    for (const column of json) decoded[column] = jsonValue(row[column]);
    for (const column of times) decoded[column] = isoTime(row[column]);
    for (const column of booleans) decoded[column] = row[column] === null ? null : Boolean(row[column]);
    return decoded;
  }

  encode({ json = [] }, column, value) {
    return json.includes(column) && value !== null ? JSON.stringify(value) : value;
  }
}

class SqliteStore extends Store {
  constructor(path, writeAheadLog) {
    super();
    this.name = 'sqlite';
    // Loaded only here: a service on PostgreSQL runs without it.
    const Database = require('better-sqlite3');
    // Without fileMustExist a missing file would silently become an empty database.
    this.database = new Database(path, { fileMustExist: true, timeout: ANSWER_TIMEOUT_MS });
    if (writeAheadLog) this.database.pragma('journal_mode = WAL');
    // better-sqlite3 is built to sync a write-ahead log only at its checkpoints: an answer would come before its rows
    // are safe from a loss of power.
    this.database.pragma('synchronous = FULL');
  }

  encode(description, column, value) {
    return typeof value === 'boolean' ? Number(value) : super.encode(description, column, value);
  }

  prepare(table, change) {
    const description = TABLES[table];
    const [sql, values] = statement(change, description.sqlite, this.encode.bind(this, description));
    return [this.database.prepare(sql), values];
  }

  async query(table, change) {
    const [prepared, values] = this.prepare(table, change);
    return prepared.all(...values);
  }

  // Apply all changes in one transaction and return the number of rows that each has touched.
  async write(changes) {
    try {
      return this.database.transaction(() =>
        changes.map((change) => {
          const [prepared, values] = this.prepare(change.table, change);
          return prepared.run(...values).changes;
        }),
      ).immediate();
    } catch (error) {
      if (String(error.code).startsWith('SQLITE_CONSTRAINT')) throw new RequestError(409, 'conflicts with another row');
      throw error;
    }
  }

  async close() {
    this.database.close();
  }
}

class PostgresqlStore extends Store {
  constructor(service, createPool) {
    super();
    this.name = 'postgresql';
    // The library reads the connection and the size of the pool from the environment.
    this.pool = createPool({
      applicationName: service,
      queryTimeoutMilliseconds: ANSWER_TIMEOUT_MS,
      // The server has closed an idle connection; the pool opens another when it is needed.
      report: (error) => console.error(`lost an idle connection: ${error.message}`),
    });
    this.pool.options.connectionTimeoutMillis = CONNECTION_TIMEOUT_MS;
  }

  prepare(table, change) {
    const [sql, values] = statement(change, table, this.encode.bind(this, TABLES[table]));
    let number = 0;
    return [sql.replace(/\?/g, () => `$${(number += 1)}`), values];
  }

  async query(table, change) {
    const [sql, values] = this.prepare(table, change);
    try {
      return (await this.pool.query(sql, values)).rows;
    } catch (error) {
      // A text that is no UUID is no row's id.
      if (error.code === '22P02') return change.kind === 'count' ? [{ rows: 0 }] : [];
      throw error;
    }
  }

  // Apply all changes in one transaction and return the number of rows that each has touched.
  async write(changes) {
    const client = await this.pool.connect();
    let broken;
    try {
      await client.query('BEGIN');
      const touched = [];
      for (const change of changes) {
        const [sql, values] = this.prepare(change.table, change);
        touched.push((await client.query(sql, values)).rowCount);
      }
      await client.query('COMMIT');
      return touched;
    } catch (error) {
      await client.query('ROLLBACK').catch((failure) => { broken = failure; });
      if (error.code === '22P02') throw new RequestError(400, 'a value has the wrong format');
      if (String(error.code).startsWith('23')) throw new RequestError(409, 'conflicts with another row');
      throw error;
    } finally {
      client.release(broken);
    }
  }

  async close() {
    await this.pool.end();
  }
}

// Return the columns of `body` that a caller may change; none of them is a wrong request.
function changesOf(body, ...columns) {
  const given = columns.filter((column) => body[column] !== undefined);
  if (!given.length) throw new RequestError(400, `the body has none of ${columns.join(', ')}`);
  return Object.fromEntries(given.map((column) => [column, body[column]]));
}

const insert = (table, row) => ({ kind: 'insert', table, row });
const update = (table, where, row) => ({ kind: 'update', table, where, row });
const remove = (table, where) => ({ kind: 'remove', table, where });

// Return whether the environment names PostgreSQL, not the service's own file.
const usesPostgresql = () => Boolean(process.env.PGHOST || process.env.DATABASE_URL);

// Loaded only here: a service on SQLite runs before the library is on its host, and a service on PostgreSQL does not
// start without it.
const createSharedPool = (options) => require('swarm-shared-db').createPool(options);

// Open the store that the environment names; end the process if that cannot be done.
function openStore({ service, sqlitePath, writeAheadLog, createPool = createSharedPool }) {
  const postgresql = usesPostgresql();
  try {
    return postgresql ? new PostgresqlStore(service, createPool) : new SqliteStore(sqlitePath, writeAheadLog);
  } catch (error) {
    console.error(`${service} cannot open ${postgresql ? 'PostgreSQL' : sqlitePath}: ${error.message}`);
    process.exit(1);
  }
}

module.exports = { RequestError, TABLES, changesOf, insert, openStore, remove, update, usesPostgresql };
