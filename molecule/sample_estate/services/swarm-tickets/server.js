'use strict';
// Users log in here, and attempts to verify a ticket's work are recorded.
require('dotenv').config({ quiet: true });
const crypto = require('node:crypto');
const { changesOf, insert, openStore, remove, update } = require('./store');
const { found, required, serve } = require('./serve');
const { login } = require('./users');

// A symlink to the file of swarm-platform.
const store = openStore({ service: 'swarm-tickets', sqlitePath: 'data/swarm.db', writeAheadLog: true });

async function recordAttempt({ body }) {
  const [ticket_id, branch_name] = required(body, 'ticket_id', 'branch_name');
  const earlier = await store.find('verification.attempts', { ticket_id });
  const attempt = {
    id: crypto.randomUUID(),
    ticket_id,
    attempt_number: Math.max(0, ...earlier.map((one) => one.attempt_number)) + 1,
    branch_name,
    commit_sha: body.commit_sha,
    status: body.status || 'running',
    duration_ms: body.duration_ms,
    static_result: body.static_result,
    sentinel_decision: body.sentinel_decision,
    sentinel_score: body.sentinel_score,
    created_at: new Date().toISOString(),
  };
  await store.write([insert('verification.attempts', attempt)]);
  return [201, found(await store.findOne('verification.attempts', { id: attempt.id }), 'attempt')];
}

async function changeAttempt({ parameters: { id }, body }) {
  const changes = changesOf(body, 'status', 'duration_ms', 'static_result', 'sentinel_decision', 'sentinel_score');
  found(await store.findOne('verification.attempts', { id }), 'attempt');
  await store.write([update('verification.attempts', { id }, changes)]);
  return found(await store.findOne('verification.attempts', { id }), 'attempt');
}

async function removeAttempt({ parameters }) {
  found(await store.findOne('verification.attempts', { id: parameters.id }), 'attempt');
  await store.write([remove('verification.attempts', { id: parameters.id })]);
  return { removed: parameters.id };
}

serve({
  service: 'swarm-tickets',
  store,
  healthTable: 'auth.users',
  routes: {
    'POST /login': login(store),
    'GET /attempts': async () => ({ attempts: await store.find('verification.attempts') }),
    'POST /attempts': recordAttempt,
    'GET /attempts/:id': async ({ parameters }) =>
      found(await store.findOne('verification.attempts', { id: parameters.id }), 'attempt'),
    'PATCH /attempts/:id': changeAttempt,
    'DELETE /attempts/:id': removeAttempt,
  },
});
