// Takes orders, in SQLite or PostgreSQL, whichever DATABASE_URL names.
'use strict';

require('dotenv').config({ quiet: true });
const http = require('http');

const url = process.env.DATABASE_URL;
const onPostgresql = url.startsWith('postgres');

function sqlite() {
  const database = new (require('better-sqlite3'))(url.replace('file:', ''));
  database.pragma('journal_mode = WAL');
  database.exec(`CREATE TABLE IF NOT EXISTS orders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    item TEXT NOT NULL,
    paid BOOLEAN NOT NULL DEFAULT 0,
    ordered_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)`);
  if (database.prepare('SELECT count(*) AS n FROM orders').get().n === 0) {
    database.exec("INSERT INTO orders (item, paid) VALUES ('first', 0), ('second', 1)");
  }
  return {
    list: async () => database.prepare('SELECT item FROM orders ORDER BY id').pluck().all(),
    add: async (item) => database.prepare('INSERT INTO orders (item) VALUES (?)').run(item),
  };
}

function postgresql() {
  const pool = new (require('pg').Pool)({ connectionString: url, max: 3 });
  // A server that restarts ends idle connections; the next query makes new ones.
  pool.on('error', () => {});
  return {
    list: async () => (await pool.query('SELECT item FROM orders.orders ORDER BY id')).rows.map((row) => row.item),
    add: (item) => pool.query('INSERT INTO orders.orders (item) VALUES ($1)', [item]),
  };
}

const store = onPostgresql ? postgresql() : sqlite();

async function answer(request) {
  if (request.method === 'POST') {
    let item = '';
    for await (const piece of request) item += piece;
    await store.add(item);
  }
  return { store: onPostgresql ? 'postgresql' : 'sqlite', items: await store.list() };
}

http
  .createServer(async (request, response) => {
    try {
      const body = JSON.stringify(await answer(request));
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(body);
    } catch (error) {
      response.writeHead(500).end(error.message);
    }
  })
  .listen(5001);
