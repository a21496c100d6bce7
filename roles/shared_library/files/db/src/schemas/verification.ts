/** Rows of the tables of schema `verification`, as pg returns them. A test compares them with files/sql. */

/** A row of verification.attempts. */
export interface Attempt {
  id: string;
  ticket_id: string;
  attempt_number: number;
  branch_name: string;
  commit_sha: string | null;
  status: string;
  failed_phase: string | null;
  duration_ms: number | null;
  static_result: unknown;
  automated_result: unknown;
  sentinel_result: unknown;
  sentinel_decision: string | null;
  sentinel_score: number | null;
  created_at: Date | null;
}
