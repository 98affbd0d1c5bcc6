"""The pod that runs a step: what a ``Pod(...)`` says, with the call in it. Importing this imports the Kubernetes client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient

from airflow_mlops.compute.kubernetes.manifest import Json, grown, losses, main_container, merge
from airflow_mlops.core.errors import MemoryLimitError, MLOpsError, SpecError
from airflow_mlops.core.fingerprints import fingerprint

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.compute.kubernetes.pod import Pod
    from airflow_mlops.core.calls import StepCall

# A pod is found again by what it computes, so that a task that was cleared does not take the pod of before.
CALL_LABEL = "airflow-mlops/call"
_MEMORY_STATE = "mlops_memory_factor"
# An environment variable may hold 128 KiB.
_CALL_BYTES = 120_000


def call_id(call: StepCall) -> str:
    """What a call is known by in the cluster: the same for every try."""
    return fingerprint([call.key])[:16]


def step_manifest(pod: Pod, template: Json, call: StepCall, context: Context) -> Json:
    """The pod that runs ``call`` as ``pod`` says.

    :param template: the content of the template, or an empty object
    :raises SpecError: the call is too large, or the pod has fields that Kubernetes does not know
    """
    content = call.model_dump_json()
    if len(content) > _CALL_BYTES:
        raise SpecError(
            f"The step's parameters are {len(content):,} bytes of JSON, and a pod takes {_CALL_BYTES:,}: "
            "map the task over fewer inputs."
        )
    manifest = grown(pod.manifest(template), _memory_factor(context))
    name = main_container(manifest)
    manifest = merge(
        manifest,
        {"spec": {"containers": [{"name": name, "env": [{"name": "MLOPS_CALL", "value": content}]}]}},
    )
    _check(manifest)
    return manifest


def read_template(path: str | None, context: Context) -> Json:
    """The content of a pod template, which lies beside the DAG file unless its path is absolute.

    :raises SpecError: it cannot be read, or is no pod
    """
    if path is None:
        return {}
    import yaml

    # As a path in a DAG file reads: beside it.
    file = Path(path) if Path(path).is_absolute() else Path(context["dag"].folder) / path
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"pod_template_file {path!r} cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(found, dict) or found.get("kind", "Pod") != "Pod":
        raise SpecError(f"pod_template_file {path!r} is not the YAML of one pod (kind: Pod).")
    return found


def or_grow(error: MLOpsError, factor: float, context: Context) -> MLOpsError:
    """``error``; where memory was wanting and may grow, the next try asks for ``factor`` times as much."""
    if not isinstance(error, MemoryLimitError) or factor <= 1:
        return error
    grown_by = _memory_factor(context) * factor
    _remember_memory_factor(context, grown_by)
    return MemoryLimitError(f"{error} The next try asks for {grown_by:g} times the memory.", grows=True)


def _check(manifest: Json) -> None:
    """:raises SpecError: a field would be lost on the way, as the client leaves out what it does not know."""
    try:
        known = ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(manifest))
    except Exception as error:  # noqa: BLE001 - the client raises what it likes
        raise SpecError(f"Pod(...) does not describe a pod: {' '.join(str(error).split())}.") from None
    if lost := losses(manifest, known):
        raise SpecError(f"A pod has no field {lost[0]!r}: correct Pod(...) or its template.")


def _memory_factor(context: Context) -> float:
    states = context.get("task_state_store")
    factor = states.get(_MEMORY_STATE) if states is not None else None
    return float(factor) if isinstance(factor, (int, float)) else 1.0


def _remember_memory_factor(context: Context, factor: float) -> None:
    states = context.get("task_state_store")
    if states is not None:
        states.set(_MEMORY_STATE, factor)
