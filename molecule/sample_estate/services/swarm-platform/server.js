'use strict';
// The web platform: users log in and see what there is.
require('dotenv').config({ quiet: true });
const { TABLES, openStore } = require('./store');
const { serve } = require('./serve');
const { listUsers, login } = require('./users');

const store = openStore({ service: 'swarm-platform', sqlitePath: 'data/swarm.db', writeAheadLog: true });

// On SQLite the platform sees the tables of its own file only, on PostgreSQL those of every schema.
const visible = Object.keys(TABLES).filter(
  (table) => store.name === 'postgresql' || table.startsWith('auth.') || table.startsWith('verification.'),
);

async function dashboard() {
  const counts = {};
  for (const table of visible) counts[table] = await store.count(table);
  return { counts };
}

serve({
  service: 'swarm-platform',
  store,
  healthTable: 'auth.users',
  routes: {
    'POST /login': login(store),
    'GET /users': listUsers(store),
    'GET /dashboard': dashboard,
  },
});
