"""Several nodes for one training, by Kubeflow Trainer. Importing this imports the Kubernetes client."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.common.compat.sdk import conf
from airflow.sdk.exceptions import TaskDeferred
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json, losses
from airflow_mlops.compute.kubernetes.step_pod import CALL_LABEL, call_id, or_grow, read_template, step_manifest
from airflow_mlops.compute.kubernetes.train_jobs import state
from airflow_mlops.compute.kubernetes.train_jobs.api import TrainJobApi
from airflow_mlops.compute.kubernetes.train_jobs.manifest import NODE, pod_template
from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.compute.kubernetes.pod import Pod
    from airflow_mlops.core.calls import StepCall

_POLL_SECONDS = 2.0
# What runs may take this long to end, after which a TrainJob that is to be replaced should be gone.
_DELETION_SECONDS = 600


class StepTrainJob:
    """Submits the TrainJob of one step, or finds the one that an earlier try submitted, and waits for its end.

    :param job: the TrainJob
    """

    def __init__(self, pod: Pod, job: Json, context: Context, log: Any) -> None:
        self.pod = pod
        self.job = job
        self.log = log
        self._context = context
        metadata = job["metadata"]
        self.api = TrainJobApi(metadata["name"], metadata.get("namespace"), pod.kubernetes_conn_id)
        self._first: Json | None = None

    @classmethod
    def for_step(cls, pod: Pod, call: StepCall, context: Context, log: Any) -> StepTrainJob:
        """What runs ``call`` as ``pod`` says, in the place of the task of ``context``.

        :raises SpecError: the step cannot use several nodes, the template cannot be read, or says what a TrainJob has no
            place for
        """
        if call.step != "train" or call.spec["trainer"].get("kind") != "torch":
            raise SpecError(
                f"Pod(nodes={pod.nodes}) trains a TorchTrainer on several nodes, and this step is another one: leave "
                "nodes= out."
            )
        template = read_template(pod.pod_template_file, context)
        job = pod.train_job(step_manifest(pod, template, call, context), template)
        labels = {**_labels(context), CALL_LABEL: call_id(call)}
        for metadata in (job["metadata"], pod_template(job)["metadata"]):
            metadata["labels"] = {**metadata.get("labels", {}), **labels}
        job["metadata"]["name"] = _name(call)
        return cls(pod, _known(job), context, log)

    def watch(self, context: Context, event: dict[str, Any] | None) -> None:
        """Submit or find the TrainJob and wait for its end, or go on from what the trigger says.

        :raises MLOpsError: it failed, or will not start
        """
        since = time.time() if event is None else event["since"]
        watch = state.Watch(since, self.pod.schedule_timeout, self.pod.startup_timeout)
        found: Json | None
        if event is None:
            found = self._get_or_create()
        else:
            self._go_on(event)
            # The trigger was patient.
            watch.patience = 0
            found = self.api.get()
        said = ""
        while True:
            if found is None:
                raise ComputeError(
                    f"TrainJob {self._full_name} was deleted while it ran: another try goes on from the last checkpoint."
                )
            if state.ended(found):
                return self._conclude(found)
            pods = self.api.pods()
            if watch.gives_up(found, pods, time.time()) is not None:
                self._give_up(watch, found, pods)
            if self._deferrable:
                self._defer(since)
            if (now := state.progress(found, pods)) != said:
                said = now
                self.log.info("TrainJob %s %s.", self._full_name, said)
            time.sleep(_POLL_SECONDS)
            found = self.api.get()

    def failure(self, error: Exception, context: Context) -> MLOpsError:
        """What the task fails with, after ``error``."""
        if isinstance(error, ApiException):
            return state.refused(error.status or 0, error.body or "", self.api.namespace)
        if isinstance(error, MLOpsError):
            return or_grow(error, self.pod.grow_memory, context)
        return ComputeError(
            f"TrainJob {self._full_name} could not be watched to its end, and another try finds it again: "
            f"{type(error).__name__}: {error}"
        )

    def facts(self) -> dict[str, str]:
        """What became of node 0, for the record: its pod, node, image and the image's digest."""
        return failures.facts(self._first, NODE) if self._first is not None else {}

    def on_kill(self) -> None:
        """Delete the TrainJob: a user ended the task."""
        self.log.info("Deleting TrainJob %s.", self._full_name)
        self.api.delete("Background")

    def _get_or_create(self) -> Json:
        found: Json | None = self.api.get()
        if found is not None and (state.ended(found) or found["metadata"].get("deletionTimestamp")):
            self.log.info("TrainJob %s of an earlier try has ended without a result and is deleted.", self._full_name)
            self._delete_and_wait()
            found = None
        if found is None and (made := self.api.create(self.job)) is not None:
            self.log.info("Submitted TrainJob %s for %d nodes.", self._full_name, self.pod.nodes)
            self._check(made)
            return made
        if found is None and (found := self.api.get()) is None:
            raise ComputeError(f"TrainJob {self._full_name} was deleted as soon as it was made.")
        self.log.info("Found TrainJob %s, which an earlier try submitted.", self._full_name)
        return found

    def _check(self, made: Json) -> None:
        """:raises SpecError: the cluster left out a field that it does not know"""
        if lost := losses(self.job, made):
            self.api.delete("Background")
            raise SpecError(
                f"The Kubeflow Trainer of this cluster knows no field {lost[0]!r} of a TrainJob: it takes 2.3 or newer."
            )

    def _delete_and_wait(self) -> None:
        # What runs would be taken for the new one's, which has the same name.
        self.api.delete("Foreground")
        end = time.monotonic() + _DELETION_SECONDS
        while self.api.get() is not None:
            if time.monotonic() > end:
                raise ComputeError(
                    f"TrainJob {self._full_name} of an earlier try cannot be deleted: see its finalizers."
                )
            time.sleep(_POLL_SECONDS)

    def _go_on(self, event: dict[str, Any]) -> None:
        if event["status"] == "timeout":
            self._finish(succeeded=False)
            raise ComputeError(
                f"TrainJob {self._full_name} ran longer than the task's execution_timeout, and was ended."
            )
        if event["status"] == "error":
            raise ComputeError(
                f"TrainJob {self._full_name} could not be watched from the triggerer, and another try finds it again: "
                f"{event['message']}"
            )

    def _defer(self, since: float) -> None:
        trigger = TrainJobTrigger(
            name=self.api.name,
            namespace=self.api.namespace,
            kubernetes_conn_id=self.pod.kubernetes_conn_id,
            since=since,
            schedule_timeout=self.pod.schedule_timeout,
            startup_timeout=self.pod.startup_timeout,
            deadline=self._deadline,
        )
        # The trigger says first that the time is over, so that the TrainJob is deleted.
        left = None if self._deadline is None else timedelta(seconds=max(0.0, self._deadline - time.time()) + 60)
        raise TaskDeferred(trigger=trigger, method_name="trigger_reentry", timeout=left)

    def _give_up(self, watch: state.Watch, job: Json, pods: list[Json]) -> None:
        watch.patience = 0
        error = watch.gives_up(job, pods, time.time(), self._warnings())
        self._first = state.first_node(pods)
        self._finish(succeeded=False)
        raise error or ComputeError(f"TrainJob {self._full_name} did not start.")

    def _conclude(self, job: Json) -> None:
        succeeded = state.condition(job, "Failed") is None
        pods: list[Json] = []
        try:
            pods = self.api.pods()
            self._first = state.first_node(pods)
            self._log_first_node()
        except Exception as error:  # noqa: BLE001 - how it ended is known
            self.log.warning("The log of node 0 cannot be had: %s", error)
        self._finish(succeeded)
        if not succeeded:
            raise state.failure(job, pods)
        self.log.info("TrainJob %s is complete.", self._full_name)

    def _log_first_node(self) -> None:
        if self._first is None:
            self.log.info("No pod of node 0 is left to read the log of.")
            return
        for line in self.api.log(self._first, NODE):
            self.log.info("[node 0] %s", re.sub(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) ", "", line))

    def _finish(self, succeeded: bool) -> None:
        """Delete what ``on_finish`` does not keep."""
        if self.pod.on_finish == "delete_pod" or (succeeded and self.pod.on_finish == "delete_succeeded_pod"):
            try:
                self.api.delete("Foreground")
            except Exception as error:  # noqa: BLE001 - how it ended is more important
                self.log.warning("TrainJob %s could not be deleted: %s", self._full_name, error)

    def _warnings(self) -> list[str]:
        try:
            return self.api.warnings()
        except Exception as error:  # noqa: BLE001 - what is known already has to do
            self.log.debug("The events of TrainJob %s cannot be read: %s", self._full_name, error)
            return []

    @property
    def _deferrable(self) -> bool:
        if self.pod.deferrable is None:
            return bool(conf.getboolean("operators", "default_deferrable", fallback=False))
        return self.pod.deferrable

    @property
    def _deadline(self) -> float | None:
        limit, start = self._context["task"].execution_timeout, self._context["ti"].start_date
        return start.timestamp() + limit.total_seconds() if limit is not None and start is not None else None

    @property
    def _full_name(self) -> str:
        return f"{self.api.namespace}/{self.api.name}"


def _known(job: Json) -> Json:
    """The TrainJob as Kubeflow Trainer's own models have it.

    :raises SpecError: a field is of another type, or unknown to them
    """
    try:
        known: Json = TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"Pod(...) does not describe a TrainJob: {' '.join(str(error).split())}.") from None
    if lost := losses(job, known):
        raise SpecError(f"A TrainJob has no field {lost[0]!r}: correct Pod(...) or its template.")
    return known


def _name(call: StepCall) -> str:
    # The pods' names, which go on with -node-0-0-abcde, may have 63 characters.
    task = re.sub(r"[^a-z0-9-]+", "-", f"{call.provenance.dag_id}-{call.provenance.task_id}".lower()).strip("-")
    start = task if task[:1].isalpha() else f"task-{task}"
    return f"{start[:24].strip('-')}-{call_id(call)}"


def _labels(context: Context) -> dict[str, str]:
    """What KubernetesPodOperator puts on a pod, less what differs from try to try."""
    ti = context["ti"]
    labels = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
    if ti.map_index is not None and ti.map_index >= 0:
        labels["map_index"] = str(ti.map_index)
    return {name: make_safe_label_value(value) for name, value in labels.items()}
