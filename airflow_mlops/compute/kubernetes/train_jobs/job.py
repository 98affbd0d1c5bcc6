"""Runs one step in a TrainJob, which trains on several nodes. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.pod_generator import make_safe_label_value
from airflow.providers.common.compat.sdk import conf
from airflow.sdk.exceptions import TaskDeferred
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.merging import missing_fields
from airflow_mlops.compute.kubernetes.manifest.train_job import NODE, pod_template
from airflow_mlops.compute.kubernetes.memory_growth import grow_on_oom
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.compute.kubernetes.step_manifest import CALL_LABEL, call_id, read_template, step_manifest, task_name
from airflow_mlops.compute.kubernetes.train_jobs import state
from airflow_mlops.compute.kubernetes.train_jobs.api import TrainJobApi
from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger
from airflow_mlops.compute.log_lines import split_level
from airflow_mlops.core.errors import ComputeError, MLOpsError, SpecError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

_POLL_SECONDS = 2.0
# Seconds within which the pods of a deleted TrainJob must end.
_DELETION_SECONDS = 600


class StepTrainJob:
    """Submits the TrainJob of one step, or finds the TrainJob that an earlier try submitted, and waits for its end.

    :param pod: description of the pod of one node
    :param job: manifest of the TrainJob
    :param context: Airflow's context of the task
    :param log: the task's logger
    """

    def __init__(self, pod: Pod, job: Json, context: Context, log: Any) -> None:
        self.pod = pod
        self.job = job
        self.log = log
        self._context = context
        metadata = job["metadata"]
        self.api = TrainJobApi(metadata["name"], metadata.get("namespace"), pod.kubernetes_conn_id)
        self._first_node: Json | None = None

    @classmethod
    def for_step(cls, pod: Pod, call: StepCall, context: Context, log: Any) -> StepTrainJob:
        """Build the TrainJob that runs a step in several pods.

        :param pod: description of the pod of one node
        :param call: the call of the step
        :param context: Airflow's context of the task
        :param log: the task's logger
        :raises SpecError: the step cannot use several nodes, the pod template cannot be read, or the pod has a field
            that TrainJobs do not support
        """
        if call.step != "train" or call.spec["trainer"].get("kind") != "torch":
            raise SpecError(
                f"Pod(nodes={pod.nodes}) works only for a TrainOperator with a TorchTrainer. Remove nodes= from the run_on= "
                "of this task."
            )
        template = read_template(pod.pod_template_file, context)
        job = pod.train_job(step_manifest(pod, template, call, context), template)
        labels = {**_labels(context), CALL_LABEL: call_id(call)}
        for metadata in (job["metadata"], pod_template(job)["metadata"]):
            metadata["labels"] = {**metadata.get("labels", {}), **labels}
        job["metadata"]["name"] = _name(call)
        return cls(pod, _validated(job), context, log)

    def watch(self, context: Context, event: dict[str, Any] | None) -> None:
        """Submit the TrainJob, or find the TrainJob of an earlier try, and wait until the TrainJob has ended.

        :param event: payload of the Airflow trigger's event if the task was deferred, otherwise ``None``
        :raises MLOpsError: the TrainJob failed, or will not start
        """
        since = time.time() if event is None else event["since"]
        # After an event, the Airflow trigger has already waited.
        patience = {} if event is None else {"patience": 0.0}
        watch = state.Watch(since, self.pod.schedule_timeout, self.pod.startup_timeout, **patience)
        found: Json | None
        if event is None:
            found = self._get_or_create()
        else:
            self._check_event(event)
            found = self.api.get()
        logged = ""
        while True:
            if found is None:
                raise ComputeError(
                    f"TrainJob {self._full_name!r} was deleted while it ran. The next try continues from the last checkpoint."
                )
            if state.ended(found):
                return self._conclude(found)
            pods = self.api.pods()
            if watch.start_error(found, pods, time.time()) is not None:
                self._fail_start(watch, found, pods)
            if self._deferrable:
                self._defer(since)
            if (progress := state.progress(found, pods)) != logged:
                logged = progress
                self.log.info("TrainJob %s %s.", self._full_name, progress)
            time.sleep(_POLL_SECONDS)
            found = self.api.get()

    def failure(self, error: Exception, context: Context) -> MLOpsError:
        """Return the error with which the task fails after :meth:`watch` has raised ``error``.

        :param error: the exception
        :param context: Airflow's context of the task
        """
        if isinstance(error, ApiException):
            return state.refused(error.status or 0, error.body or "", self.api.namespace)
        if isinstance(error, MLOpsError):
            return grow_on_oom(error, self.pod.grow_memory, context)
        return ComputeError(
            f"The connection to TrainJob {self._full_name!r} was lost before the TrainJob ended "
            f"({type(error).__name__}: {error}). The TrainJob keeps running, and the next try waits for it."
        )

    def facts(self) -> dict[str, str]:
        """Return the names of node 0's pod, Kubernetes node and image, and the image's digest; empty if not known."""
        return failures.facts(self._first_node, NODE) if self._first_node is not None else {}

    def on_kill(self) -> None:
        """Delete the TrainJob, because a user ended the task."""
        self.log.info("Deleting TrainJob %s.", self._full_name)
        self.api.delete("Background")

    def _get_or_create(self) -> Json:
        found: Json | None = self.api.get()
        if found is not None and (state.ended(found) or found["metadata"].get("deletionTimestamp")):
            self.log.info("TrainJob %s of an earlier try has ended without a result and is deleted.", self._full_name)
            self._delete_and_wait()
            found = None
        if found is None and (created := self.api.create(self.job)) is not None:
            self.log.info("Submitted TrainJob %s for %d nodes.", self._full_name, self.pod.nodes)
            self._check(created)
            return created
        if found is None and (found := self.api.get()) is None:
            raise ComputeError(
                f"TrainJob {self._full_name!r} was deleted as soon as it was created. The next try submits it again."
            )
        self.log.info("Found TrainJob %s, which an earlier try submitted.", self._full_name)
        return found

    def _check(self, created: Json) -> None:
        """Check that the cluster stored every field of the TrainJob.

        The cluster drops a field without an error if the installed version of Kubeflow Trainer does not know the field.

        :raises SpecError: the cluster dropped a field. The message names the field
        """
        if missing := missing_fields(self.job, created):
            self.api.delete("Background")
            raise SpecError(
                f"Kubeflow Trainer in this cluster does not know the field {missing[0]!r} of a TrainJob. Install Kubeflow "
                "Trainer 2.3 or newer."
            )

    def _delete_and_wait(self) -> None:
        # The new TrainJob has the same name, so pods of the old TrainJob would be attributed to it.
        self.api.delete("Foreground")
        end = time.monotonic() + _DELETION_SECONDS
        while self.api.get() is not None:
            if time.monotonic() > end:
                raise ComputeError(
                    f"TrainJob {self._full_name!r} of an earlier try was not deleted within {_DELETION_SECONDS} s. Check its "
                    "finalizers."
                )
            time.sleep(_POLL_SECONDS)

    def _check_event(self, event: dict[str, Any]) -> None:
        if event["status"] == "timeout":
            self._finish(succeeded=False)
            raise ComputeError(
                f"TrainJob {self._full_name!r} ran longer than the `execution_timeout` of the task and was deleted. Increase "
                "`execution_timeout`."
            )
        if event["status"] == "error":
            raise ComputeError(
                f"The triggerer could not read TrainJob {self._full_name!r} ({event['message']}). The TrainJob keeps running, "
                "and the next try waits for it."
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
        # Airflow's own timeout would leave the TrainJob running. The Airflow trigger therefore sends its event earlier,
        # and the resumed task deletes the TrainJob.
        remaining = None if self._deadline is None else timedelta(seconds=max(0.0, self._deadline - time.time()) + 60)
        raise TaskDeferred(trigger=trigger, method_name="trigger_reentry", timeout=remaining)

    def _fail_start(self, watch: state.Watch, job: Json, pods: list[Json]) -> None:
        error = watch.start_error(job, pods, time.time(), self._warnings())
        self._first_node = state.first_node(pods)
        self._finish(succeeded=False)
        raise error or ComputeError(f"TrainJob {self._full_name!r} did not start.")

    def _conclude(self, job: Json) -> None:
        succeeded = state.condition(job, "Failed") is None
        pods: list[Json] = []
        try:
            pods = self.api.pods()
            self._first_node = state.first_node(pods)
            self._log_first_node()
        except Exception as error:  # noqa: BLE001 - the state of the TrainJob is known
            self.log.warning("The log of node 0 cannot be read: %s", error)
        self._finish(succeeded)
        if not succeeded:
            raise state.failure(job, pods)
        self.log.info("TrainJob %s is complete.", self._full_name)

    def _log_first_node(self) -> None:
        if self._first_node is None:
            self.log.info("The log of node 0 cannot be read, because its pod no longer exists.")
            return
        for line in self.api.log(self._first_node, NODE):
            self.log.info("[node 0] %s", split_level(line)[1])

    def _finish(self, succeeded: bool) -> None:
        """Delete the TrainJob, unless the pod's ``on_finish`` keeps it."""
        if self.pod.on_finish == "delete_pod" or (succeeded and self.pod.on_finish == "delete_succeeded_pod"):
            try:
                self.api.delete("Foreground")
            except Exception as error:  # noqa: BLE001 - the result of the TrainJob matters more
                self.log.warning("TrainJob %s could not be deleted: %s", self._full_name, error)

    def _warnings(self) -> list[str]:
        try:
            return self.api.warnings()
        except Exception as error:  # noqa: BLE001 - the events only add to the error
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


def _validated(job: Json) -> Json:
    """Validate the manifest of the TrainJob with Kubeflow Trainer's own models, and return it.

    :raises SpecError: a field is unknown or has the wrong type
    """
    try:
        known: Json = TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(f"Pod(...) does not describe a valid TrainJob: {' '.join(str(error).split())}.") from None
    if missing := missing_fields(job, known):
        raise SpecError(f"TrainJobs have no field {missing[0]!r}. Correct Pod(...) or its pod_template_file=.")
    return known


def _name(call: StepCall) -> str:
    # The names of the pods add a suffix such as -node-0-0-abcde, and may have at most 63 characters.
    task = task_name(call)
    start = task if task[:1].isalpha() else f"task-{task}"
    return f"{start[:24].strip('-')}-{call_id(call)}"


def _labels(context: Context) -> dict[str, str]:
    """Return the labels that KubernetesPodOperator sets on a pod, without labels that differ between tries."""
    ti = context["ti"]
    labels = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id}
    if ti.map_index is not None and ti.map_index >= 0:
        labels["map_index"] = str(ti.map_index)
    return {name: make_safe_label_value(value) for name, value in labels.items()}
