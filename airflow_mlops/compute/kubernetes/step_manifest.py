"""The manifest of the pod that runs one step. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient

from airflow_mlops.compute.kubernetes.manifest import Json
from airflow_mlops.compute.kubernetes.manifest.merging import merge, missing_fields
from airflow_mlops.compute.kubernetes.manifest.pod import literal, main_container, multiply_memory
from airflow_mlops.compute.kubernetes.memory_growth import memory_factor
from airflow_mlops.compute.kubernetes.pod import Pod
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.secrets import credential_paths
from airflow_mlops.registry.signatures import VERIFYING_VARIABLE
from airflow_mlops.settings import step_environment
from airflow_mlops.stages.calls import KEY_VARIABLE, STORE_VARIABLE, call_key

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.core.calls import StepCall

# A retry finds the running pod by this label. A cleared task has another value, so it does not find its earlier pod.
CALL_LABEL = "airflow-mlops/call"


def call_id(call: StepCall) -> str:
    """Return the value of the label ``CALL_LABEL``. All tries of a task have the same value."""
    return fingerprint([call.key])[:16]


def task_name(call: StepCall) -> str:
    """Return a name for Kubernetes objects, joined from the ids of DAG and task.

    The name contains only characters that Kubernetes allows in names. The function does not limit the length of the
    name, so callers must shorten it.
    """
    return re.sub(r"[^a-z0-9-]+", "-", f"{call.provenance.dag_id}-{call.provenance.task_id}".lower()).strip("-")


def step_manifest(pod: Pod, template: Json, call: StepCall, context: Context) -> Json:
    """Return the manifest of the pod that runs the step of ``call``. The pod reads the call from the artifact store.

    :param pod: description of the pod
    :param template: content of the pod template; empty without a template
    :param call: the call of the step
    :param context: Airflow's context of the task
    :raises SpecError: the pod has a field that Kubernetes does not know, or a field that contains a URL with
        credentials
    """
    manifest = multiply_memory(pod.manifest(template), memory_factor(context))
    name = main_container(manifest)
    env = [
        {"name": STORE_VARIABLE, "value": literal(call.store)},
        {"name": KEY_VARIABLE, "value": literal(call_key(call))},
    ]
    manifest = merge(with_verifying_key(manifest, name), {"spec": {"containers": [{"name": name, "env": env}]}})
    check_fields(manifest)
    return manifest


def with_verifying_key(manifest: Json, name: str) -> Json:
    """Return the manifest of a pod that requires signed promotions if ``[mlops] verifying_key`` is set.

    A pod without the file of the key fails. It never uses an unsigned champion. If the pod already sets the environment
    variable, that value is kept.

    :param manifest: the manifest
    :param name: name of the container that uses champions
    """
    if not (key := step_environment()[VERIFYING_VARIABLE]):
        return manifest
    variable = {"name": VERIFYING_VARIABLE, "value": literal(key)}
    return merge({"spec": {"containers": [{"name": name, "env": [variable]}]}}, manifest)


def read_template(path: str | None, context: Context) -> Json:
    """Read a pod template from a YAML file and return it.

    :param path: absolute path, or path relative to the folder of the DAG file; ``None`` without a template
    :return: the pod as JSON; empty without a template
    :raises SpecError: the file cannot be read, or does not describe a pod
    """
    if path is None:
        return {}
    import yaml

    file = Path(path) if Path(path).is_absolute() else Path(context["dag"].folder) / path
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SpecError(f"Pod(pod_template_file={path!r}) cannot be read: {' '.join(str(error).split())}.") from None
    if not isinstance(found, dict) or found.get("kind", "Pod") != "Pod":
        raise SpecError(f"Pod(pod_template_file={path!r}) must be a YAML file with one pod (kind: Pod).")
    return found


def check_fields(manifest: Json) -> None:
    """Check that the Kubernetes client knows every field of a pod, and that no field contains a URL with credentials.

    The client drops unknown fields without an error. Anyone who can read pods can read their fields.

    :raises SpecError: the client drops a field, or a field contains credentials. The message names the field
    """
    try:
        known = ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_dict(manifest))
    except Exception as error:  # noqa: BLE001 - the client raises errors of many types
        raise SpecError(f"Pod(...) does not describe a valid pod: {' '.join(str(error).split())}.") from None
    if missing := missing_fields(manifest, known):
        raise SpecError(f"Kubernetes pods have no field {missing[0]!r}. Correct Pod(...) or its pod_template_file=.")
    if found := next(credential_paths(manifest), None):
        raise SpecError(
            f"The field {found!r} of the pod contains a URL with credentials, which anyone who can read pods could read. "
            "Store the value in a Kubernetes Secret, and name the Secret and its key in Pod(secrets=...)."
        )
