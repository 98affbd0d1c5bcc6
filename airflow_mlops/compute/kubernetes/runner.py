"""The runner for ``run_on=Pod(...)``: runs a step in one pod, or in a TrainJob if ``nodes`` is greater than 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.compute.base import Runner
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.core.errors import ComputeError, MLOpsError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall


class _Workload(Protocol):
    """A pod or a TrainJob that runs a step in the cluster."""

    def watch(self, context: Context, event: dict[str, Any] | None) -> None: ...

    def failure(self, error: Exception, context: Context) -> MLOpsError: ...

    def facts(self) -> dict[str, str]: ...

    def on_kill(self) -> None: ...


class KubernetesRunner(Runner[Pod]):
    """Starts the pod or the TrainJob of one step, waits for its end and reads the result from the artifact store."""

    _workload: _Workload | None = None

    def run(self, call: StepCall, conn_ids: set[str], context: Context) -> dict[str, Any]:
        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.stages.calls import write_call

        if (finished := read_result(ArtifactStore(call.store), call.key)) is not None:
            self.log.info("An earlier try finished this step. Its result is returned, and no pod is started.")
            return finished
        write_call(call)
        return self._watch(call, context, None)

    def resume(self, call: StepCall, event: dict[str, Any], context: Context) -> dict[str, Any]:
        return self._watch(call, context, event)

    def _watch(self, call: StepCall, context: Context, event: dict[str, Any] | None) -> dict[str, Any]:
        from airflow.sdk.exceptions import TaskDeferred

        from airflow_mlops.data.results import read_result
        from airflow_mlops.data.store import ArtifactStore

        store = ArtifactStore(call.store)
        self._workload = workload = self._create_workload(call, context)
        try:
            workload.watch(context, event)
        except TaskDeferred:
            raise
        except Exception as error:
            # If the result is stored, the step succeeded. Only the pod, its log or the connection to the cluster was
            # lost.
            result = read_result(store, call.key)
            if result is None:
                raise workload.failure(error, context) from error
            self.log.warning("The step succeeded. An error after its end is ignored: %s", error)
            return result
        result = read_result(store, call.key)
        if result is None:
            raise ComputeError(
                f"The pod ended without an error, but its result is not in the artifact store {call.store}. Check that the "
                "pod can reach this store."
            )
        return result

    def _create_workload(self, call: StepCall, context: Context) -> _Workload:
        if self.compute.nodes > 1:
            from airflow_mlops.compute.kubernetes.train_jobs.job import StepTrainJob

            return StepTrainJob.for_step(self.compute, call, context, self.log)
        from airflow_mlops.compute.kubernetes.operator import StepPodOperator

        return StepPodOperator.for_step(self.compute, call, context)

    def facts(self) -> dict[str, str]:
        return self._workload.facts() if self._workload is not None else {}

    def on_kill(self) -> None:
        if self._workload is not None:
            self._workload.on_kill()
