import type { Decision, ModelVersion, Overview, Point, Trend, Verdict, Window } from "./api/types";

/** Values for tests. */
export const month = (number: number): Window => {
  const text = (value: number) => `2013-${String(value).padStart(2, "0")}`;
  return {
    start: `${text(number)}-01T00:00:00Z`,
    end: number === 12 ? "2014-01-01T00:00:00Z" : `${text(number + 1)}-01T00:00:00Z`,
    label: text(number),
  };
};

export const trend = (values: (number | null)[], verdict: Verdict = "healthy"): Trend => ({
  windows: values.map((_, index) => month(index + 1).label),
  values,
  estimated: values.map(() => 0.7),
  verdicts: values.map(() => verdict),
});

export const overview = (name: string, verdict: Verdict | null = "healthy", fields: Partial<Overview> = {}): Overview => ({
  name,
  owner: "ops",
  tags: ["prod"],
  dags: { train: ["train"], score: ["score"], monitor: ["monitor"] },
  champion: { version: 3, since: "2013-02-01T00:00:00Z", by: "admin", reason: "It passed every gate." },
  candidate: { version: 4, trained: "2013-12-02T00:00:00Z" },
  previous: 2,
  monitoring: verdict && {
    window: month(3),
    checked: "2013-04-02T00:00:00Z",
    verdict,
    headline: `It is ${verdict}.`,
    metric: "roc_auc",
    greater_is_better: true,
    coverage: 0.9,
    trend: trend([0.7, 0.72, 0.65], verdict),
    acknowledged: null,
  },
  scoring: { window: month(3), scored_at: "2013-04-01T05:00:00Z", version: 3, rows: 100 },
  labels_until: "2013-04-01T00:00:00Z",
  request: null,
  approval: null,
  can_act: true,
  problems: [],
  ...fields,
});

/** A version with the facts that every version has. */
export const version = (number: number, fields: Partial<ModelVersion> = {}): ModelVersion => ({
  version: number,
  run_id: null,
  created: null,
  champion: false,
  challenger: false,
  metrics: {},
  gates: [],
  judged: null,
  params: {},
  steps: [],
  usage: null,
  dataset: null,
  card: null,
  mlflow_url: null,
  ...fields,
});

export const point = (number: number, fields: Partial<Point> = {}): Point => ({
  window: month(number),
  verdict: "healthy",
  headline: `It was ${number}.`,
  checked: month(number).end,
  version: 1,
  rows: 100,
  labelled: 90,
  coverage: 0.9,
  metric: "roc_auc",
  realised: { value: 0.7, low: 0.68, high: 0.72, reference: 0.71 },
  estimated: null,
  requested: false,
  report: `reports/m/${number}.html`,
  ...fields,
});

export const decision = (seq: number, time: string, fields: Partial<Decision> = {}): Decision => ({
  seq,
  time,
  decision: "promoted",
  champion: 2,
  replaced: 1,
  by: "admin",
  reason: "It passed every gate.",
  approval: null,
  candidates: [],
  window: null,
  dag_id: "train",
  run_id: "run",
  task_id: "promote",
  map_index: -1,
  ...fields,
});
