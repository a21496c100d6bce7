'use strict';
// Logging in, and what a user looks like to others. swarm-tickets and swarm-platform share it with the users' table.
const crypto = require('node:crypto');
const { promisify } = require('node:util');
const { RequestError, update } = require('./store');
const { required } = require('./serve');

const scrypt = promisify(crypto.scrypt);

// Compared against when there is no such user, so that the answer takes as long.
const NOBODY = `scrypt:16384:8:1:${'00'.repeat(16)}:${'00'.repeat(64)}`;

async function matches(password, stored) {
  const [scheme, cost, blockSize, parallelization, salt, hash] = String(stored).split(':');
  if (scheme !== 'scrypt' || !hash) return false;
  const expected = Buffer.from(hash, 'hex');
  const options = { N: Number(cost), r: Number(blockSize), p: Number(parallelization), maxmem: 128 * 1024 * 1024 };
  const actual = await scrypt(password, Buffer.from(salt, 'hex'), expected.length, options);
  return crypto.timingSafeEqual(actual, expected);
}

function withoutSecrets(user, roles) {
  const role = roles.find(({ id }) => id === user.role_id);
  return {
    id: user.id,
    email: user.email,
    name: user.name,
    role: role ? role.name : null,
    tenant_id: user.tenant_id,
    last_login: user.last_login,
    created_at: user.created_at,
  };
}

// Return the handler of POST /login.
function login(store) {
  return async ({ body }) => {
    const [email, password] = required(body, 'email', 'password');
    const user = await store.findOne('auth.users', { email });
    if (!(await matches(password, user ? user.password_hash : NOBODY)) || !user) {
      throw new RequestError(401, 'wrong email or password');
    }
    const last_login = new Date().toISOString();
    await store.write([update('auth.users', { id: user.id }, { last_login })]);
    return withoutSecrets({ ...user, last_login }, await store.find('auth.roles'));
  };
}

// Return the handler of GET /users.
function listUsers(store) {
  return async () => {
    const roles = await store.find('auth.roles');
    return { users: (await store.find('auth.users')).map((user) => withoutSecrets(user, roles)) };
  };
}

module.exports = { listUsers, login };
