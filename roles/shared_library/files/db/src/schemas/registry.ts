/** Rows of the tables of schema `registry`, as pg returns them. A test compares them with files/sql. */

/** A row of registry.agents. */
export interface Agent {
  id: string;
  name: string;
  version: string;
  path: string;
  description: string | null;
  capabilities: unknown;
  inputs_schema: unknown;
  outputs_schema: unknown;
  runtime: string | null;
  memory_mb: number | null;
  timeout_seconds: number | null;
  triggers: unknown;
  author: string | null;
  tags: unknown;
  created_at: Date | null;
  updated_at: Date | null;
}

/** A row of registry.workflows. */
export interface Workflow {
  id: string;
  name: string;
  version: string;
  path: string;
  description: string | null;
  trigger_type: string | null;
  trigger_config: unknown;
  steps: unknown;
  variables: unknown;
  on_error: unknown;
  on_success: unknown;
  enabled: boolean | null;
  author: string | null;
  tags: unknown;
  created_at: Date | null;
  updated_at: Date | null;
}

/** A row of registry.workflow_runs. */
export interface WorkflowRun {
  id: string;
  workflow_id: string;
  workflow_version: string | null;
  status: string;
  current_step: string | null;
  trigger_type: string | null;
  trigger_data: unknown;
  step_results: unknown;
  started_at: Date | null;
  completed_at: Date | null;
  error: string | null;
  error_step: string | null;
  total_vm_time_ms: number | null;
  total_api_tokens: number | null;
  created_at: Date | null;
}

/** A row of registry.step_executions. */
export interface StepExecution {
  id: string;
  run_id: string;
  step_id: string;
  agent_id: string | null;
  agent_name: string | null;
  agent_version: string | null;
  status: string;
  vm_id: string | null;
  inputs: unknown;
  outputs: unknown;
  queued_at: Date | null;
  started_at: Date | null;
  completed_at: Date | null;
  duration_ms: number | null;
  api_tokens_used: number | null;
  error: string | null;
  retry_count: number | null;
}

/** A row of registry.vm_assignments. */
export interface VmAssignment {
  vm_id: string;
  ticket_id: string;
  assigned_at: Date;
  status: string | null;
  heartbeat_at: Date | null;
}

/** A row of registry.triggers. */
export interface Trigger {
  id: string;
  workflow_id: string;
  type: string;
  webhook_path: string | null;
  webhook_secret: string | null;
  cron_expression: string | null;
  next_run_at: Date | null;
  event_source: string | null;
  event_type: string | null;
  enabled: boolean | null;
  created_at: Date | null;
}

/** A row of registry.secrets. */
export interface Secret {
  id: string;
  workflow_id: string | null;
  name: string;
  encrypted_value: Buffer | null;
  scope: string | null;
  created_at: Date | null;
  updated_at: Date | null;
}

/** A row of registry.execution_artifacts. */
export interface ExecutionArtifact {
  id: string;
  ticket_id: string;
  artifact_type: string | null;
  content: string | null;
  created_at: Date | null;
}
