// The history of deployments. The one service of ECMAScript modules.
import crypto from 'node:crypto';
import dotenv from 'dotenv';
import serving from './serve.js';
import stores from './store.js';

const { changesOf, insert, openStore, remove, update, usesPostgresql } = stores;
const { found, required, serve } = serving;

dotenv.config({ quiet: true });

const STAGES = ['queued', 'build', 'deploy', 'health_check'];

// Imported only on PostgreSQL: a service on SQLite runs before the library is on its host.
const { createPool } = usesPostgresql() ? await import('swarm-shared-db') : {};
const store = openStore({
  service: 'swarm-deploy',
  sqlitePath: process.env.DB_PATH,
  writeAheadLog: true,
  createPool,
});

// A sample deployment has nothing to build: every stage succeeds at once.
async function recordDeployment({ body }) {
  const [service, commit_sha, triggered_by] = required(body, 'service', 'commit_sha', 'triggered_by');
  const id = crypto.randomUUID();
  const now = new Date().toISOString();
  await store.write([
    insert('deploy.deployments', {
      id,
      service,
      commit_sha,
      triggered_by,
      trigger_type: body.trigger_type || 'manual',
      status: 'building',
      started_at: now,
      created_at: now,
    }),
    ...STAGES.map((stage) =>
      insert('deploy.deployment_events', {
        deployment_id: id,
        stage,
        status: 'success',
        message: `${stage} finished`,
        details: { stage },
        created_at: new Date().toISOString(),
      })),
    update('deploy.deployments', { id }, { status: 'success', completed_at: new Date().toISOString() }),
  ]);
  return [201, await readDeployment({ parameters: { id } })];
}

async function readDeployment({ parameters }) {
  const deployment = found(await store.findOne('deploy.deployments', { id: parameters.id }), 'deployment');
  return { ...deployment, events: await store.find('deploy.deployment_events', { deployment_id: deployment.id }) };
}

async function changeDeployment({ parameters: { id }, body }) {
  const changes = changesOf(body, 'status', 'rollback_reason');
  found(await store.findOne('deploy.deployments', { id }), 'deployment');
  await store.write([update('deploy.deployments', { id }, changes)]);
  return readDeployment({ parameters: { id } });
}

async function removeDeployment({ parameters }) {
  found(await store.findOne('deploy.deployments', { id: parameters.id }), 'deployment');
  await store.write([
    remove('deploy.deployment_events', { deployment_id: parameters.id }),
    remove('deploy.deployments', { id: parameters.id }),
  ]);
  return { removed: parameters.id };
}

serve({
  service: 'swarm-deploy',
  store,
  healthTable: 'deploy.deployments',
  routes: {
    'GET /deployments': async () => ({ deployments: await store.find('deploy.deployments') }),
    'POST /deployments': recordDeployment,
    'GET /deployments/:id': readDeployment,
    'PATCH /deployments/:id': changeDeployment,
    'DELETE /deployments/:id': removeDeployment,
  },
});
