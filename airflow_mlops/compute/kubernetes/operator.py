"""A KubernetesPodOperator that runs one step. Importing this module imports the Kubernetes client."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import TaskDeferred
from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.pod import main_container
from airflow_mlops.compute.kubernetes.memory_growth import grow_on_oom
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.compute.kubernetes.step_manifest import CALL_LABEL, call_id, read_template, step_manifest, task_name
from airflow_mlops.compute.kubernetes.trigger import StepPodManager, StepPodTrigger
from airflow_mlops.compute.log_lines import split_level
from airflow_mlops.core.errors import MLOpsError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from kubernetes.client import V1Pod

    from airflow_mlops.core.calls import StepCall


class StepPodOperator(KubernetesPodOperator):
    """Starts the pod of one step, or finds the pod that an earlier try started, and waits for its end.

    :param grow_memory: factor by which the memory grows in the next try after the pod was OOMKilled
    """

    def __init__(self, *, grow_memory: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grow_memory = grow_memory
        self._last_seen: Json | None = None
        self._warnings: list[str] = []

    @classmethod
    def for_step(cls, pod: Pod, call: StepCall, context: Context) -> StepPodOperator:
        """Create the operator that runs a step in a pod.

        :param pod: description of the pod
        :param call: the call of the step
        :param context: Airflow's context of the task

        :raises SpecError: the pod template cannot be read, or the pod has fields that Kubernetes does not know
        """
        task = context["task"]
        manifest = step_manifest(pod, read_template(pod.pod_template_file, context), call, context)
        options: dict[str, Any] = {} if pod.deferrable is None else {"deferrable": pod.deferrable}
        return cls(
            task_id=task.task_id,
            execution_timeout=task.execution_timeout,
            kubernetes_conn_id=pod.kubernetes_conn_id,
            pod_template_dict=manifest,
            name=task_name(call)[:50].strip("-"),
            namespace=pod.namespace,
            labels={CALL_LABEL: call_id(call)},
            base_container_name=main_container(manifest),
            do_xcom_push=False,
            automount_service_account_token=manifest["spec"]["automountServiceAccountToken"],
            schedule_timeout_seconds=pod.schedule_timeout,
            startup_timeout_seconds=pod.startup_timeout,
            startup_check_interval_seconds=1,
            termination_grace_period=manifest["spec"]["terminationGracePeriodSeconds"],
            on_finish_action=pod.on_finish,
            log_pod_spec_on_failure=False,
            log_formatter=lambda _, line: split_level(line)[1],
            # Seconds from the first check of the Airflow trigger until it resumes the task, which then reads the log.
            logging_interval=1,
            grow_memory=pod.grow_memory,
            **options,
        )

    def watch(self, context: Context, event: dict[str, Any] | None) -> None:
        """Start the pod, or find the pod that an earlier try started, and wait until the pod has ended.

        :param event: payload of the Airflow trigger's event if the task was deferred, otherwise ``None``
        """
        try:
            if event is not None:
                self.trigger_reentry(context, self._without_waiting(event))
            elif self.deferrable:
                self.execute_async(context)
            else:
                self.execute_sync(context)
        except TaskDeferred as deferral:
            deferral.trigger = StepPodTrigger(**deferral.trigger.serialize()[1])
            raise

    def _without_waiting(self, event: dict[str, Any]) -> dict[str, Any]:
        # After an event with status "error", KubernetesPodOperator waits for the end of the pod, even if the pod never
        # starts. After "timeout" it does not wait.
        if event["status"] == "error":
            with suppress(ApiException):
                pod = self.hook.get_pod(event["name"], event["namespace"])
                if failures.never_starts(ApiClient().sanitize_for_serialization(pod)):
                    return {**event, "status": "timeout"}
        return event

    @cached_property
    def pod_manager(self) -> StepPodManager:
        return StepPodManager(kube_client=self.client, callbacks=self.callbacks)

    def failure(self, error: Exception, context: Context) -> MLOpsError:
        """Return the error with which the task fails after :meth:`watch` has raised ``error``.

        :param error: the exception
        :param context: Airflow's context of the task
        """
        if isinstance(error, MLOpsError):
            return error
        if isinstance(error, ApiException) and self._last_seen is None:
            return failures.refused(error.status or 0, error.body or "", self.namespace or "")
        found = failures.failure(self._last_seen, self.base_container_name, self._warnings, str(error))
        return grow_on_oom(found, self.grow_memory, context)

    def get_or_create_pod(self, pod_request_obj: V1Pod, context: Context) -> V1Pod:
        try:
            return super().get_or_create_pod(pod_request_obj, context)
        except ApiException as error:
            # Status 409 means that the pod exists, because the response to a first request was lost and the request was
            # repeated.
            if error.status != 409:
                raise
            metadata = pod_request_obj.metadata
            return self.client.read_namespaced_pod(metadata.name, metadata.namespace)

    def _get_pod_from_task_state_store(self, context: Context) -> V1Pod | None:
        pod = super()._get_pod_from_task_state_store(context)
        if pod is not None and (pod.metadata.labels or {}).get(CALL_LABEL) != self.labels[CALL_LABEL]:
            self.log.info("Pod %s belongs to an earlier call of this task and is deleted.", pod.metadata.name)
            self.pod_manager.delete_pod(pod)
            return None
        return pod

    def process_pod_deletion(self, pod: V1Pod, *, reraise: bool = True) -> bool:
        if pod is None:
            return False
        self._look_at(pod)
        pending = self._last_seen is not None and self._last_seen["status"].get("phase") == "Pending"
        if pending and self.on_finish_action != "keep_pod":
            # Nothing runs in the pod, so it needs no time to end. With a grace period, the kubelet would keep the pod
            # while it tries to pull the image.
            with suppress(ApiException):
                self.client.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, grace_period_seconds=0)
                return True
        return bool(super().process_pod_deletion(pod, reraise=reraise))

    def _look_at(self, pod: V1Pod) -> None:
        """Save the state and the warning events of the pod before the pod is deleted. They explain a failure."""
        seen = pod
        try:
            seen = self.pod_manager.read_pod(pod)
            events = self.pod_manager.read_pod_events(pod).items
            self._warnings = [f"{event.reason}: {event.message}" for event in events if event.type == "Warning"]
        except Exception as error:  # noqa: BLE001 - the state that was passed in is used instead
            self.log.debug("Pod %s cannot be read: %s", pod.metadata.name, error)
        self._last_seen = ApiClient().sanitize_for_serialization(seen)

    def facts(self) -> dict[str, str]:
        """Return the names of the pod, the node and the image, and the digest of the image, if known."""
        return failures.facts(self._last_seen, self.base_container_name) if self._last_seen is not None else {}
