import { change } from "../api/client";
import type { TaskKey } from "../api/types";

/** Answer a request for approval with Airflow's own API, which decides whether the user may. */
export const answer = async (task: TaskKey, option: "Approve" | "Reject", note: string): Promise<string> => {
  const parts = [
    "api/v2/dags",
    encodeURIComponent(task.dag_id),
    "dagRuns",
    encodeURIComponent(task.run_id),
    "taskInstances",
    encodeURIComponent(task.task_id),
    String(task.map_index),
    "hitlDetails",
  ];
  await change("PATCH", parts.join("/"), { chosen_options: [option], params_input: { note } });
  return option === "Approve"
    ? "The promotion is approved. The task continues and records the answer in the ledger."
    : "The promotion is rejected. The task continues and records the answer in the ledger.";
};
