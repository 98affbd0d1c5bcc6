"""Roll out a release of an endpoint, verify it, and restore the previous release on failure.

Importing this module imports the Kubernetes client.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf
from airflow.sdk.exceptions import TaskDeferred

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.pod import main_container
from airflow_mlops.compute.kubernetes.serving import manifests, state
from airflow_mlops.compute.kubernetes.serving.api import EndpointApi
from airflow_mlops.compute.kubernetes.serving.check import problem, verify
from airflow_mlops.compute.kubernetes.serving.errors import explained
from airflow_mlops.compute.kubernetes.serving.release import Record, Release
from airflow_mlops.compute.kubernetes.serving.restoring import (
    Restored,
    apply_all,
    delete_others,
    put_back,
    wait_until_answering,
    wait_until_gone,
)
from airflow_mlops.compute.kubernetes.serving.target import Target
from airflow_mlops.compute.kubernetes.serving.trigger import RolloutTrigger
from airflow_mlops.compute.kubernetes.step_manifest import (
    call_id,
    check_fields,
    read_template,
    with_verifying_key,
)
from airflow_mlops.core.errors import ComputeError, DeploymentError, MLOpsError, SpecError, one_line
from airflow_mlops.registry.records.endpoint import Endpoint
from airflow_mlops.stages.deploy.spec import Check, DeployResult, DeploySpec

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

_POLL_SECONDS = 2.0


class Rollout:
    """Rolls out the endpoint of one task.

    :param target: description of the objects
    :param call: the call of the step that chose the version
    :param chosen: the chosen version
    :param context: Airflow's context of the task
    :param log: the task's logger
    :raises SpecError: the target describes no valid pod
    """

    def __init__(self, target: Target, call: StepCall, chosen: DeployResult, context: Context, log: Any) -> None:
        self._target, self._call, self._chosen, self._context, self._log = target, call, chosen, context, log
        pod = target.pod
        self._api = EndpointApi(target.object_name(chosen.model), pod.namespace, pod.kubernetes_conn_id)
        self._begun = False
        words = manifests.command(DeploySpec.model_validate(call.spec), call.store)
        made = manifests.server_pod(pod, read_template(pod.pod_template_file, context), words)
        self._pod = with_verifying_key(made, main_container(made))
        check_fields(self._pod)
        if chosen.follows and (field := target.needs_version):
            raise SpecError(
                f"{type(target).__name__}({field}=...) shares the requests between two versions, but both would follow the "
                "champion. Set version=."
            )
        self._id = call_id(call)

    def run(self, event: dict[str, Any] | None, check: Check, token: str | None) -> Endpoint:
        """Apply the objects, wait until the endpoint is ready, and verify it.

        :param event: payload of the Airflow trigger's event if the task was deferred, otherwise ``None``
        :param check: rows, and the scores of the version for these rows
        :param token: bearer token of the servers; ``None`` if they need none
        :return: the verified endpoint
        :raises MLOpsError: the endpoint cannot be applied, does not become ready, or answers with another version or
            other scores. If objects may have changed, the previous release was restored
        """
        try:
            release, since = self._apply() if event is None else self._resumed(event)
            pods = self._wait(release, since, event)
            if not pods:
                raise DeploymentError(
                    f"{self._target.kind} {self._api} is ready, but has no pods that could be verified."
                )
            verify(pods, self._chosen.version, check, token, follows=self._chosen.follows)
            release = self._conclude(release)
        except (TaskDeferred, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a timeout of Airflow is no Exception
            found = explained(error, self._api)
            raise (self._failed(found) if self._begun else found) from (None if found is error else error)
        return release.endpoint

    def put_back(self) -> None:
        """Restore the previous release, or remove the endpoint if there was none, because a user has ended the task."""
        if self._begun:
            self._log.info("%s", put_back(self._api, self._id).said)

    def _apply(self) -> tuple[Release, float]:
        """Write the record of the previous and the new release, and then apply the objects of the new release."""
        api, name, namespace = self._api, self._api.name, self._api.namespace
        made = self._target.manifests(name, namespace, self._pod, api.served())
        record = api.record()
        self._check_record(record)
        # If an endpoint was just removed, its pods still answer.
        wait_until_gone(api, made[0], only_deleted=True)
        live = [api.get(manifest) for manifest in made]
        for manifest, found in zip(made, live, strict=True):
            self._check_owner(manifest, found)
        if record.model is None and live[0] is not None:
            raise SpecError(
                f"The ConfigMap that records how {self._target.kind} {api} was deployed is missing, so the {self._target.kind} "
                f"could not be restored. Delete the {self._target.kind}, or set another name=."
            )
        good = record.good
        endpoint = Endpoint(
            version=self._chosen.version,
            follows=self._chosen.follows,
            kind=self._target.kind,
            namespace=namespace,
            name=name,
            url=self._target.url or f"http://{name}.{namespace}.svc/v2/models/{self._chosen.model}",
            image=str(self._pod["spec"]["containers"][0].get("image")),
            before=_served_before(good),
        )
        release = Release(endpoint=endpoint, manifests=made, call=self._id)
        api.write_record(Record(good=good, trying=release))
        self._begun = True
        apply_all(api, made)
        # An earlier task that was lost may have created objects that are not part of this release.
        delete_others(api, record.trying, [*made, *(good.manifests if good is not None else [])])
        self._log.info("Applied %s %s, which serves %s.", self._target.kind, api, self._chosen.version)
        return release, time.time()

    def _resumed(self, event: dict[str, Any]) -> tuple[Release, float]:
        # The name and the namespace may be templates whose values have changed.
        self._api = EndpointApi(event["name"], event["namespace"], event["conn_id"])
        self._begun = True
        if event["status"] == "timeout":
            raise ComputeError("The rollout took longer than the `execution_timeout` of the task.")
        if event["status"] == "error":
            raise ComputeError(f"The triggerer could not read the endpoint ({event['message']}).")
        return self._present(), event["since"]

    def _present(self) -> Release:
        """Return the release that is being rolled out.

        :raises DeploymentError: another task has deployed to the endpoint or removed it, so this is not the release of
            this task
        """
        trying = self._api.record().trying
        if trying is None or trying.call != self._id:
            self._begun = False
            error = DeploymentError(
                f"Another task has deployed to {self._api} or removed it in the meantime, so this deployment was not verified."
            )
            error.retryable = False
            raise error
        return trying

    def _check_record(self, record: Record) -> None:
        model = self._chosen.model
        if record.model not in (None, model):
            raise SpecError(
                f"{self._target.kind} {self._api} serves the model {record.model!r}. Set another name= for {model!r}."
            )
        found = record.good or record.trying
        if found is not None and found.endpoint.kind != self._target.kind:
            raise SpecError(
                f"The endpoint {self._api} is a {found.endpoint.kind}. Remove it with UndeployOperator, or set another name= "
                f"for the {self._target.kind}."
            )

    def _check_owner(self, manifest: Json, live: Json | None) -> None:
        if live is not None and (live["metadata"].get("labels") or {}).get(manifests.MANAGED_BY) != manifests.MANAGER:
            raise SpecError(
                f"{manifest['kind']} {self._api} exists, and DeployOperator did not create it. Delete it, or set another name=."
            )

    def _wait(self, release: Release, since: float, event: dict[str, Any] | None) -> list[Json]:
        """Wait until the endpoint is ready, and return the pods that are ready. Until then, a deferrable task is deferred."""
        # The Airflow trigger has already waited.
        watch = state.Watch(since, self._target.limit, **({} if event is None else {"patience": 0}))
        logged = ""
        while True:
            live = self._api.get(release.manifests[0])
            if live is None:
                raise DeploymentError(f"{self._target.kind} {self._api} was deleted while it was rolled out.")
            every = self._api.pods()
            pods = state.of_manifest(every, release.manifests[0])
            if state.is_ready(live, every):
                if (why := state.ignored(live)) is not None:
                    raise SpecError(why)
                return [pod for pod in pods if state.pod_ready(pod)]
            if (error := watch.error(pods, time.time())) is not None:
                if isinstance(error, DeploymentError):
                    if said := problem(pods):
                        raise DeploymentError(f"{error} A server says: {said}")
                    if said := state.complaint(live):
                        raise DeploymentError(f"{error} KServe says: {said}")
                raise error
            if event is None and self._deferrable:
                self._defer(since)
            if (progress := state.progress(pods)) != logged:
                logged = progress
                self._log.info("%s %s: %s.", self._target.kind, self._api, progress)
            time.sleep(_POLL_SECONDS)

    def _conclude(self, release: Release) -> Release:
        """Record that the release is verified, and delete all objects that only the previous release contains."""
        self._present()
        live = self._api.get(release.manifests[0])
        if (url := state.address(live or {})) and not self._target.url:
            path = f"{url}/v2/models/{self._chosen.model}"
            release = release.model_copy(update={"endpoint": release.endpoint.model_copy(update={"url": path})})
        good = self._api.record().good
        self._api.write_record(Record(good=release))
        delete_others(self._api, good, release.manifests)
        return release

    def _failed(self, error: MLOpsError) -> MLOpsError:
        """Restore the previous release and wait until it answers, or remove the endpoint if there was none.

        :return: the error with which the task fails
        """
        try:
            restored = put_back(self._api, self._id)
        except Exception as second:  # noqa: BLE001 - the first error matters more
            said = f"The previous state could not be restored ({one_line(second, 300)}). The next try restores it."
        else:
            # If a user ends the task while it waits, nothing is left to restore.
            self._begun = False
            said = self._awaited(restored)
        found = type(error)(f"{error} {said}")
        found.retryable = error.retryable
        return found

    def _awaited(self, restored: Restored) -> str:
        """Wait until a restored endpoint answers, and return what was done as a sentence."""
        if restored.release is None:
            return restored.said
        self._log.info("%s Waiting until it answers.", restored.said)
        done = restored.said.removesuffix(".")
        try:
            wait_until_answering(self._api, restored.release)
        except SystemExit:
            raise
        except BaseException as second:  # noqa: BLE001 - a timeout of Airflow is no Exception, and the first error matters more
            return f"{done}, but it does not answer ({one_line(second, 300)}). Look at its pods, or deploy again."
        return f"{done}, and it answers."

    def _defer(self, since: float) -> None:
        limit, start = self._context["task"].execution_timeout, self._context["ti"].start_date
        deadline = start.timestamp() + limit.total_seconds() if limit is not None and start is not None else None
        trigger = RolloutTrigger(
            kind=self._target.kind,
            name=self._api.name,
            namespace=self._api.namespace,
            conn_id=self._target.pod.kubernetes_conn_id,
            call=self._id,
            since=since,
            limit=self._target.limit,
            deadline=deadline,
        )
        # The event of the Airflow trigger comes before Airflow's own timeout, so that the task can restore the previous
        # release.
        remaining = None if deadline is None else timedelta(seconds=max(0.0, deadline - time.time()) + 60)
        raise TaskDeferred(trigger=trigger, method_name="rollout_ended", timeout=remaining)

    @property
    def _deferrable(self) -> bool:
        if self._target.pod.deferrable is None:
            return bool(conf.getboolean("operators", "default_deferrable", fallback=False))
        return self._target.pod.deferrable


def _served_before(good: Release | None) -> int | None:
    return good.endpoint.version.version if good is not None else None
