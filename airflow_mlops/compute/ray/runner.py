"""Run a step as a task of Ray, and read its result from the artifact store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.compute.base import Runner
from airflow_mlops.compute.connections import airflow_connection
from airflow_mlops.compute.modules import module_folders
from airflow_mlops.compute.ray.ray import Ray
from airflow_mlops.compute.sent_environment import sent_environment
from airflow_mlops.core import termination
from airflow_mlops.core.errors import ComputeError, SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.compute.ray.job import RayJob
    from airflow_mlops.core.calls import StepCall


class RayRunner(Runner[Ray]):
    """Connects to Ray, runs the step as one task and waits for its end."""

    _job: RayJob | None = None

    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        from airflow_mlops.compute.ray.cluster import connected
        from airflow_mlops.compute.ray.job import RayJob
        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore

        store = ArtifactStore(call.store)
        if (finished := read_result(store, call.key)) is not None:
            self.log.info("An earlier try finished this step. Its result is returned, and no task of Ray is started.")
            return finished
        resources = self.compute.resources()
        connection = airflow_connection(self.compute.conn_id)
        env = {**_verifying_key(), **sent_environment(conn_ids, airflow_connection), **self.compute.env}
        name = f"airflow-mlops {call.provenance.dag_id}.{call.provenance.task_id}"
        with connected(connection, self.compute.runtime_env, resources) as address:
            self.log.info("The step runs as a task of Ray (%s).", address)
            self._job = RayJob(name, resources, float(self.compute.schedule_timeout))
            report = self._job.run(env, module_folders(context), call.model_dump_json())
        if report.get("traceback"):
            self.log.error("The traceback of the step:\n%s", report["traceback"])
        if "missing" in report:
            raise SpecError(
                f"The Python of Ray's nodes has no module {report['missing']!r}. Install its package on the nodes, or name it "
                "in Ray(runtime_env={'pip': [...]})."
            )
        if (error := termination.error_in(report)) is not None:
            raise error
        result = read_result(store, call.key)
        if result is None:
            raise ComputeError(
                f"The task of Ray ended without an error, but its result is not in the artifact store {call.store}. Check that "
                "the nodes can reach this store."
            )
        return result

    def on_kill(self) -> None:
        if self._job is not None:
            self._job.cancel()


def _verifying_key() -> dict[str, str]:
    """Return the variable with which nodes require signed promotions, if ``[mlops] verifying_key`` is set."""
    from airflow_mlops.registry.signatures import VERIFYING_VARIABLE
    from airflow_mlops.settings import step_environment

    key = step_environment()[VERIFYING_VARIABLE]
    return {VERIFYING_VARIABLE: key} if key else {}
