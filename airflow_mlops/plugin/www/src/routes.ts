import type { TaskKey } from "./api/types";

const escape = encodeURIComponent;

/** Pages of Airflow's UI, for its router. */
export const modelsPage = "/plugin/mlops";
export const modelPage = (name: string): string => `${modelsPage}/${escape(name)}`;
export const dagPage = (dagId: string): string => `/dags/${escape(dagId)}`;
/** The page on which Airflow asks for the approval. */
export const requiredAction = (task: TaskKey): string => `${taskPage(task)}/required_actions`;
export const runPage = ({ dag_id, run_id }: TaskKey): string => `${dagPage(dag_id)}/runs/${escape(run_id)}`;
export const taskPage = ({ dag_id, map_index, run_id, task_id }: TaskKey): string =>
  `${runPage({ dag_id, map_index, run_id, task_id })}/tasks/${escape(task_id)}` + (map_index >= 0 ? `/mapped/${map_index}` : "");
