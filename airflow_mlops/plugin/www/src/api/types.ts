/** What `/mlops/api` answers. The fields are described in `airflow_mlops/overview/facts.py`. */

export type Verdict = "healthy" | "watch" | "retrain";

export type Window = { start: string; end: string; label: string };

/** The last windows, oldest first. Each list has one item for each window. */
export type Trend = { windows: string[]; values: (number | null)[]; estimated: (number | null)[]; verdicts: Verdict[] };

export type Monitoring = {
  window: Window;
  checked: string;
  verdict: Verdict;
  headline: string;
  metric: string | null;
  greater_is_better: boolean | null;
  coverage: number | null;
  trend: Trend;
  acknowledged: { by: string; at: string; note: string } | null;
};

export type Overview = {
  name: string;
  owner: string | null;
  tags: string[];
  dags: { train: string[]; score: string[]; monitor: string[] };
  champion: { version: number; since: string; by: string | null; reason: string } | null;
  /** The newest trained version; null if it is unknown. */
  candidate: { version: number; trained: string } | null;
  previous: number | null;
  monitoring: Monitoring | null;
  scoring: { window: Window | null; scored_at: string; version: number; rows: number } | null;
  labels_until: string | null;
  /** The last request for retraining that has not led to a decision. `training` is the first task that it started. */
  request: {
    id: string; reason: string; created: string; state: string; by: string | null; started: string | null; training: TaskKey | null;
  } | null;
  approval: Approval | null;
  can_act: boolean;
  problems: string[];
};

/** A request for approval. `assignees` is empty if Airflow has no list of users for it. */
export type Approval = TaskKey & { subject: string; assignees: string[]; can_answer: boolean };
export type TaskKey = { dag_id: string; run_id: string; task_id: string; map_index: number };

export type Level = { value: number; low: number; high: number; reference: number | null };

export type Point = {
  window: Window;
  verdict: Verdict;
  headline: string;
  checked: string;
  version: number | null;
  rows: number;
  labelled: number;
  coverage: number | null;
  metric: string | null;
  realised: Level | null;
  estimated: Level | null;
  requested: boolean;
  report: string;
};

export type Gate = {
  gate: string;
  measured: number | null;
  asked: number | null;
  passed: boolean;
  explanation: string;
  improvement?: number | null;
  low?: number | null;
  high?: number | null;
};

export type Candidate = {
  version: number;
  passed: boolean;
  reason: string;
  metrics: Record<string, number>;
  gates: Gate[];
};

export type DecisionKind = "promoted" | "refused" | "rolled_back" | "requested" | "acknowledged" | "deployed" | "undeployed"
  | "canary_started" | "canary_widened" | "canary_held" | "canary_withdrawn"
  | "received" | "moved_outside";

export type Endpoint = { version: { version: number }; follows: boolean; kind: string; namespace: string; name: string };

export type Decision = TaskKey & {
  seq: number;
  time: string;
  /** A kind of DecisionKind, or one of a newer release. */
  decision: string;
  champion: number | null;
  replaced: number | null;
  by: string | null;
  reason: string;
  approval: Record<string, unknown> | null;
  candidates: Candidate[];
  window: Window | null;
  endpoint?: Endpoint | null;
  /** `share` is 0 after the end. */
  canary?: { version: { version: number }; share: number } | null;
};

export type ModelFacts = Overview & {
  details: string[];
  windows: Point[];
  decisions: Decision[];
  chain: { intact: boolean; problem: string | null };
};

export type Models = { models: Overview[]; problems: string[] };

export type DriftCell = { effect: number | null; drifted: boolean; broken: boolean } | null;

/** `cells` has one row for each feature and one column for each window. */
export type Drift = {
  features: { column: string; importance: number | null }[];
  windows: Window[];
  cells: DriftCell[][];
  problems?: string[];
};

export type Distribution = {
  column: string;
  kind: string;
  bins: { label: string; reference: number; current: number }[];
  effect: number | null;
  test: string | null;
  adjusted_p_value: number | null;
  note: string | null;
};

export type ModelVersion = {
  version: number;
  run_id: string | null;
  created: string | null;
  champion: boolean;
  challenger: boolean;
  metrics: Record<string, { value: number; low: number | null; high: number | null }>;
  gates: Gate[];
  /** The version whose metrics these are, if this version was fitted again from it. */
  judged: number | null;
  params: Record<string, unknown>;
  /** The steps that recorded what they used for the version, and the sum. */
  steps: string[];
  usage: Record<string, unknown> | null;
  dataset: { name: string; id: string; rows: number | null } | null;
  card: string | null;
  mlflow_url: string | null;
};

export type Versions = { versions: ModelVersion[]; ledger?: string | null; problems: string[] };

/** What an action did, in one sentence. */
export type ActionDone = { message: string; decision: Decision | null };

/** What a rollback would change. */
export type Preview = { current: ModelVersion; target: ModelVersion; former: number[]; message: string };

export type DataWindow = { window: Window; id: string; rows: number | null; quarantined: number; replaced: number };

export type ModelData = {
  datasets: { name: string; windows: DataWindow[]; missing: Window[] }[];
  lineage: { nodes: { id: string; kind: string; name: string; label: string }[]; edges: [string, string][] };
};

/** The stored result of a step; its fields depend on the kind of the step. */
export type TaskResult = {
  kind: string;
  model: string | null;
  summary: string;
  result: Record<string, unknown>;
  split?: Record<string, unknown>;
};

/** A loss by epoch, from 0. */
export type Curve = { metric: string; points: [number, number | null][] };

export type Trial = { number: number; state: string; metrics: Record<string, number>; params: Record<string, string> };

/** What a training or a search has logged to MLflow so far. Without a run, `status` is null. */
export type Progress = { run_url: string | null; status: string | null; curves: Curve[]; trials: Trial[]; problems: string[] };

/** The first rows that a validation has quarantined, with values as text. */
export type Samples = { dataset: { rows: number } | null; columns: string[]; rows: (string | null)[][] };
