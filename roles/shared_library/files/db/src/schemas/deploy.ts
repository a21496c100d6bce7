/** Rows of the tables of schema `deploy`, as pg returns them. A test compares them with files/sql. */

/** A row of deploy.deployments. */
export interface Deployment {
  id: string;
  service: string;
  commit_sha: string;
  triggered_by: string;
  trigger_type: string;
  status: string;
  started_at: Date;
  completed_at: Date | null;
  build_log: string | null;
  deploy_log: string | null;
  health_check_result: string | null;
  rollback_reason: string | null;
  created_at: Date | null;
}

/** A row of deploy.deployment_events. */
export interface DeploymentEvent {
  id: number;
  deployment_id: string;
  stage: string;
  status: string;
  message: string | null;
  details: unknown;
  created_at: Date | null;
}

/** A row of deploy.queue. */
export interface QueueEntry {
  id: string;
  ticket_id: string;
  parent_ticket_id: string | null;
  commit_sha: string;
  repo: string;
  service: string;
  pr_number: number | null;
  status: string | null;
  waiting_for: string | null;
  queued_at: Date | null;
  deployed_at: Date | null;
}

/** A row of deploy.commit_ticket_map. */
export interface CommitTicket {
  commit_sha: string;
  ticket_id: string;
  repo: string;
  pr_number: number | null;
  created_at: Date | null;
}
