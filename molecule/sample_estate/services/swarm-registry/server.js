'use strict';
// The registry of agents and workflows, and the runs of workflows.
require('dotenv').config({ quiet: true });
const crypto = require('node:crypto');
const { RequestError, changesOf, insert, openStore, remove, update } = require('./store');
const { found, required, serve } = require('./serve');

const store = openStore({ service: 'swarm-registry', sqlitePath: 'registry.db', writeAheadLog: false });

async function registerAgent({ body }) {
  const [name, version, path] = required(body, 'name', 'version', 'path');
  const now = new Date().toISOString();
  const agent = {
    id: crypto.randomUUID(),
    name,
    version,
    path,
    description: body.description,
    capabilities: body.capabilities || [],
    runtime: body.runtime || 'node',
    tags: body.tags || [],
    created_at: now,
    updated_at: now,
  };
  await store.write([insert('registry.agents', agent)]);
  return [201, found(await store.findOne('registry.agents', { id: agent.id }), 'agent')];
}

async function changeAgent({ parameters: { id }, body }) {
  const changes = changesOf(body, 'description', 'tags');
  found(await store.findOne('registry.agents', { id }), 'agent');
  await store.write([update('registry.agents', { id }, { ...changes, updated_at: new Date().toISOString() })]);
  return found(await store.findOne('registry.agents', { id }), 'agent');
}

async function removeAgent({ parameters }) {
  found(await store.findOne('registry.agents', { id: parameters.id }), 'agent');
  await store.write([remove('registry.agents', { id: parameters.id })]);
  return { removed: parameters.id };
}

// Return the agent of this name with the newest version, or undefined.
async function newestAgent(name) {
  const agents = await store.find('registry.agents', { name });
  return agents.sort((one, other) => one.version.localeCompare(other.version, 'en', { numeric: true })).pop();
}

// A sample workflow has nothing to do: every step completes at once.
async function runWorkflow({ parameters, body }) {
  const workflow = found(
    (await store.findOne('registry.workflows', { id: parameters.id }))
      || (await store.findOne('registry.workflows', { name: parameters.id })),
    'workflow',
  );
  if (!workflow.enabled) throw new RequestError(409, 'the workflow is disabled');
  const run_id = crypto.randomUUID();
  const started_at = new Date().toISOString();
  const steps = [];
  for (const step of workflow.steps) {
    const agent = await newestAgent(step.agent);
    steps.push({
      id: crypto.randomUUID(),
      run_id,
      step_id: step.id,
      agent_id: agent ? agent.id : null,
      agent_name: step.agent,
      agent_version: agent ? agent.version : null,
      status: 'completed',
      inputs: body.trigger_data === undefined ? {} : body.trigger_data,
      outputs: { step: step.id },
      queued_at: started_at,
      started_at,
      completed_at: new Date().toISOString(),
      duration_ms: Date.now() - Date.parse(started_at),
    });
  }
  await store.write([
    insert('registry.workflow_runs', {
      id: run_id,
      workflow_id: workflow.id,
      workflow_version: workflow.version,
      status: 'running',
      trigger_type: 'manual',
      trigger_data: body.trigger_data === undefined ? null : body.trigger_data,
      started_at,
      created_at: started_at,
    }),
    ...steps.map((step) => insert('registry.step_executions', step)),
    update('registry.workflow_runs', { id: run_id }, {
      status: 'completed',
      step_results: Object.fromEntries(steps.map((step) => [step.step_id, step.outputs])),
      completed_at: new Date().toISOString(),
    }),
  ]);
  return [201, await readRun({ parameters: { id: run_id } })];
}

async function readRun({ parameters }) {
  const run = found(await store.findOne('registry.workflow_runs', { id: parameters.id }), 'run');
  return { ...run, steps: await store.find('registry.step_executions', { run_id: run.id }) };
}

async function removeRun({ parameters }) {
  found(await store.findOne('registry.workflow_runs', { id: parameters.id }), 'run');
  await store.write([
    remove('registry.step_executions', { run_id: parameters.id }),
    remove('registry.workflow_runs', { id: parameters.id }),
  ]);
  return { removed: parameters.id };
}

serve({
  service: 'swarm-registry',
  store,
  healthTable: 'registry.agents',
  routes: {
    'GET /agents': async () => ({ agents: await store.find('registry.agents') }),
    'POST /agents': registerAgent,
    'GET /agents/:id': async ({ parameters }) =>
      found(await store.findOne('registry.agents', { id: parameters.id }), 'agent'),
    'PATCH /agents/:id': changeAgent,
    'DELETE /agents/:id': removeAgent,
    'GET /workflows': async () => ({ workflows: await store.find('registry.workflows') }),
    'POST /workflows/:id/runs': runWorkflow,
    'GET /runs/:id': readRun,
    'DELETE /runs/:id': removeRun,
  },
});
