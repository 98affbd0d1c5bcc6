"""Decide from the state of its objects whether an endpoint is ready, or will never become ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

from airflow_mlops.compute.kubernetes import failures
from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.pod import main_container
from airflow_mlops.compute.kubernetes.patience import Patience
from airflow_mlops.compute.kubernetes.serving.kserve import KIND as KSERVE
from airflow_mlops.compute.kubernetes.serving.manifests import TEMPLATE
from airflow_mlops.core.errors import DeploymentError, MLOpsError

# Number of restarts after which a container is considered failed.
_RESTARTS = 3
# The label of a pod with the name of its Knative revision.
_REVISION = "serving.knative.dev/revision"
# Phases of pods that do not run any more, for example because they were evicted.
_ENDED = ("Failed", "Succeeded")
_ALL = 100
# Largest number of characters of a message of KServe.
_LONGEST = 300


def is_ready(live: Json, pods: Sequence[Json]) -> bool:
    """Return whether all pods are ready, and run the current manifest of the object that runs the servers.

    :param live: the object in the cluster
    :param pods: all pods of the endpoint
    """
    if live.get("kind") == KSERVE:
        return _kserve_is_ready(live, pods)
    status = live.get("status") or {}
    if status.get("observedGeneration", 0) < live["metadata"].get("generation", 0):
        return False
    wanted, updated = live["spec"].get("replicas", 1), status.get("updatedReplicas", 0)
    return bool(wanted <= updated == status.get("replicas", 0) <= status.get("availableReplicas", 0))


def _kserve_is_ready(live: Json, pods: Sequence[Json]) -> bool:
    """Return whether the pods of an InferenceService are ready and run its current manifest.

    Its ``observedGeneration`` is that of the Knative Service or of the Deployment, so it cannot be compared with the
    generation of the InferenceService. After a change, the condition ``Ready`` first describes the previous revision. The
    pods therefore show whether the status describes the current manifest.
    """
    status = live.get("status") or {}
    if not any(item.get("type") == "Ready" and item.get("status") == "True" for item in status.get("conditions") or []):
        return False
    new = of_manifest(pods, live)
    ready = [pod for pod in new if pod_ready(pod)]
    predictor = (status.get("components") or {}).get("predictor") or {}
    if (newest := predictor.get("latestCreatedRevision")) is None:
        # Without Knative, the Deployment replaces the pods one by one, and the condition stays True in the meantime.
        wanted = live["spec"]["predictor"].get("minReplicas", 1)
        old = [pod for pod in pods if pod not in new and (pod.get("status") or {}).get("phase") not in _ENDED]
        return wanted <= len(ready) == len(new) and not old
    revisions = {pod["metadata"]["labels"].get(_REVISION) for pod in ready}
    return predictor.get("latestReadyRevision") == newest and newest in revisions and _is_split(live, predictor, newest)


def _is_split(live: Json, predictor: Json, newest: str) -> bool:
    """Return whether Knative splits the requests between the revisions as the manifest says.

    :param predictor: status of the predictor
    :param newest: name of the newest revision
    """
    traffic = predictor.get("traffic") or []
    share = sum(item.get("percent") or 0 for item in traffic if item.get("revisionName") == newest)
    wanted = live["spec"]["predictor"].get("canaryTrafficPercent")
    if {item.get("revisionName") for item in traffic} == {newest}:
        # Without a previous revision, a canary gets all requests.
        return bool(share == _ALL)
    return bool(share == (_ALL if wanted is None else wanted))


def of_manifest(pods: Sequence[Json], manifest: Json) -> list[Json]:
    """Return the pods that were made from a manifest of the object that runs the servers."""
    wanted = template(manifest)
    return [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(TEMPLATE) == wanted]


def complaint(live: Json) -> str:
    """Return the message of KServe about an InferenceService that is not ready; empty if there is none."""
    conditions = (live.get("status") or {}).get("conditions") or [] if live.get("kind") == KSERVE else []
    said = (str(item.get("message") or "") for item in conditions if item.get("status") == "False")
    return " ".join(next(filter(None, said), "").split())[:_LONGEST]


def ignored(live: Json) -> str | None:
    """Return why the cluster ignores a setting in the manifest of a ready object; ``None`` if it uses all settings."""
    if live.get("kind") != KSERVE or live["spec"]["predictor"].get("canaryTrafficPercent") is None:
        return None
    if (live["status"].get("components") or {}).get("predictor", {}).get("latestReadyRevision"):
        return None
    return (
        "KServe ignores canary_percent=, because it does not run this InferenceService in its serverless mode. Install Knative, "
        "or remove canary_percent=."
    )


def template(manifest: Json) -> str:
    """Return the value of the label :data:`~.manifests.TEMPLATE` of the pods that a manifest describes.

    :param manifest: manifest of the object that runs the servers
    """
    metadata = (manifest if manifest.get("kind") == KSERVE else manifest["spec"]["template"])["metadata"]
    found: str = metadata["labels"][TEMPLATE]
    return found


def address(live: Json) -> str | None:
    """Return the URL that the cluster has assigned to the object that runs the servers; ``None`` if it has no URL."""
    url = (live.get("status") or {}).get("url")
    return str(url).rstrip("/") if url else None


def pod_ready(pod: Json) -> bool:
    """Return whether a pod passes its readiness probe."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def progress(pods: Sequence[Json]) -> str:
    """Return the state of the new pods in a few words for the log."""
    ready = sum(map(pod_ready, pods))
    return f"{ready} of {len(pods)} new pods are ready"


@dataclass
class Watch:
    """Decides when to stop waiting for an endpoint.

    :param since: time at which the task began to wait, in seconds since 1970
    :param limit: seconds within which the endpoint must be ready
    :param patience: seconds after which a pod that cannot start is reported as an error
    """

    since: float
    limit: float
    patience: InitVar[float] = failures.CONFIG_PATIENCE_SECONDS
    _patience: Patience = field(init=False)

    def __post_init__(self, patience: float) -> None:
        self._patience = Patience(patience)

    def error(self, pods: Sequence[Json], now: float) -> MLOpsError | None:
        """Return an error if the endpoint will not become ready, or ``None`` to continue waiting.

        :param pods: the pods that were made from the new manifest
        :param now: the current time, in seconds since 1970
        """
        hopeless = next(filter(None, map(_never_ready, pods)), None)
        if error := self._patience.exhausted(hopeless, now):
            return error
        return self._late(pods) if now - self.since > self.limit else None

    def _late(self, pods: Sequence[Json]) -> MLOpsError:
        for pod in pods:
            if (pod.get("status") or {}).get("phase") in (None, "Pending"):
                return failures.failure(pod, main_container(pod), [], "")
        what = progress(pods) if pods else "there are no new pods"
        return DeploymentError(
            f"The endpoint was not ready within {self.limit:g} s, the sum of schedule_timeout= and startup_timeout= of its "
            f"Pod(...): {what}."
        )


def _never_ready(pod: Json) -> MLOpsError | None:
    if found := failures.never_starts(pod):
        return found
    for status in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (status.get("lastState") or {}).get("terminated")
        if ended and status.get("restartCount", 0) >= _RESTARTS and not status.get("ready"):
            lines = [line.strip() for line in str(ended.get("message") or "").splitlines() if line.strip()]
            shown = f": {lines[-1][:300]}" if lines else ""
            return DeploymentError(
                f"The server in pod {pod['metadata']['name']!r} keeps ending ({ended.get('reason')}, exit code "
                f"{ended.get('exitCode')}){shown}."
            )
    return None
