"""Send the call of a step to the process that runs the step, through the artifact store or as JSON on standard input.

A call contains the name and the spec of the step, the URL of the artifact store and the key of the result. A pod
receives only the URL of the store and the key of the call, in two environment variables. The call itself can have any
size, and only users with access to the artifact store can read it.
"""

from __future__ import annotations

import hashlib
import os
import sys

from airflow_mlops import __version__
from airflow_mlops.core import strict_json
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import ComputeError, SpecError
from airflow_mlops.core.secrets import credential_paths
from airflow_mlops.data.store import ArtifactStore

STORE_VARIABLE = "MLOPS_CALL_STORE"
KEY_VARIABLE = "MLOPS_CALL_KEY"


def call_key(call: StepCall) -> str:
    """Return the key under which :func:`write_call` stores the call.

    The key contains a hash of the call. Two tries of a task have different keys, because their calls have different
    values of ``try_number``.
    """
    return f"calls/{call.key.removeprefix('results/').removesuffix('.json')}{_suffix(_content(call))}"


def write_call(call: StepCall) -> None:
    """Write the call to the artifact store ``call.store``.

    :raises SpecError: a parameter is a URL with credentials. Everyone who can read the store could read them
    :raises StoreError: the store cannot be written
    """
    if found := next(credential_paths(call.spec), None):
        raise SpecError(
            f"`{found}` is a URL with credentials. The parameters of this step are stored in the artifact store, which must not "
            "contain credentials. Remove them from the URL and pass them to the pod as a setting of fsspec "
            "(secrets={'FSSPEC_HTTPS': ...}), or run the step with Worker() or Process(...)."
        )
    # The key contains a hash of the content, so an existing file has the same content.
    ArtifactStore(call.store).write_bytes(call_key(call), _content(call))


def receive_call() -> StepCall:
    """Return the call of the step that this process must run.

    The call is read from the artifact store if ``MLOPS_CALL_STORE`` and ``MLOPS_CALL_KEY`` are set, and from standard
    input otherwise.

    :raises SpecError: the process that created the call has a different version of this package, or the call was
        changed
    :raises ComputeError: the call is not in the artifact store
    """
    # The variables are removed, so that processes started by the step do not read the call again.
    store, key = os.environ.pop(STORE_VARIABLE, ""), os.environ.pop(KEY_VARIABLE, "")
    if not key:
        return parse_call(sys.stdin.buffer.read())
    return parse_call(_read(store, key))


def read_call(store: str, key: str) -> StepCall:
    """Return the call that a task wrote before the task was deferred.

    An earlier version of this package may have written the call.

    :param store: URL of the artifact store
    :param key: key of the call in this store
    :raises SpecError: this version of the package cannot read the call, or the call was changed
    :raises ComputeError: the call is not in the artifact store
    """
    found: StepCall = parse(StepCall, strict_json.loads(_read(store, key)), f"The deferred call {key}")
    return found


def _read(store: str, key: str) -> bytes:
    try:
        content = ArtifactStore(store).read_bytes(key)
    except FileNotFoundError:
        raise ComputeError(
            f"The file {key} with the parameters of the step is not in the artifact store {store}. Give the step access "
            "to the same artifact store as the Airflow worker."
        ) from None
    # The key comes from Airflow. Without this check, anyone who can write to the store could choose the step and its
    # code.
    if not key.endswith(_suffix(content)):
        raise SpecError(
            f"The file {key} with the parameters of the step was changed in the artifact store {store} after the task wrote "
            "it. Clear the task."
        )
    return content


def parse_call(text: str | bytes) -> StepCall:
    """Return the call (step name, parameters, store) in a JSON text that another process has written.

    :raises SpecError: the other process uses a different version of this package
    """
    content = strict_json.loads(text)
    # The version is checked before validation, because calls of a different version may have different fields.
    check_version(str(content.get("version")))
    return StepCall.model_validate(content)


def check_version(version: str) -> None:
    """Check that a call was created by the version of the package that runs now.

    :param version: version of the package that created the call
    :raises SpecError: the versions are different
    """
    if version != __version__:
        raise SpecError(
            f"Airflow runs airflow-mlops {version}, but the environment of the step (`run_on`) has airflow-mlops "
            f"{__version__}. Install the same version in both environments."
        )


def _suffix(content: bytes) -> str:
    return f"-{hashlib.sha256(content).hexdigest()[:16]}.json"


def _content(call: StepCall) -> bytes:
    return call.model_dump_json().encode()
