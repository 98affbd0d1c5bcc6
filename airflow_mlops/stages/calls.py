"""How a call reaches the process that runs it: through the artifact store, or as JSON on standard input.

A pod gets only the URL of the store and the key of the call, in two environment variables. The call itself may be of any
size, and only those who may read the artifact store can read it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

from airflow_mlops import __version__
from airflow_mlops.core.calls import StepCall
from airflow_mlops.core.errors import ComputeError, SpecError
from airflow_mlops.data.store import ArtifactStore

STORE_VARIABLE = "MLOPS_CALL_STORE"
KEY_VARIABLE = "MLOPS_CALL_KEY"


def call_key(call: StepCall) -> str:
    """The key under which :func:`write_call` stores the call.

    It holds a hash of the call's content: the calls of two tries of a task, which differ in ``try_number``, have two keys.
    """
    content_hash = hashlib.sha256(_content(call)).hexdigest()[:16]
    return f"calls/{call.key.removeprefix('results/').removesuffix('.json')}-{content_hash}.json"


def write_call(call: StepCall) -> None:
    """Write the call into its own artifact store.

    :raises StoreError: the store cannot be written
    """
    # An earlier write of this key can only have written the same bytes.
    ArtifactStore(call.store).write_bytes(call_key(call), _content(call))


def receive_call() -> StepCall:
    """Read the call of this process: the one that its environment names, or else the one on standard input.

    :raises SpecError: the sender has another version of this package
    :raises ComputeError: the artifact store does not have the call
    """
    # Removed from the environment, so that processes which the step starts do not read the call again.
    store, key = os.environ.pop(STORE_VARIABLE, ""), os.environ.pop(KEY_VARIABLE, "")
    if not key:
        return parse_call(sys.stdin.buffer.read())
    try:
        return parse_call(ArtifactStore(store).read_bytes(key))
    except FileNotFoundError:
        raise ComputeError(
            f"The step's call {key} is not in the artifact store {store}: check that the place where the step runs "
            "reaches the same artifact store as the Airflow worker."
        ) from None


def parse_call(text: str | bytes) -> StepCall:
    """Parse a call that another process has written.

    :raises SpecError: that process has another version of this package
    """
    content = json.loads(text)
    # Checked before validation, because another version may have other fields.
    check_version(str(content.get("version")))
    return StepCall.model_validate(content)


def check_version(version: str) -> None:
    """Check that a call was made by this version of the package.

    :raises SpecError: it was made by another version
    """
    if version != __version__:
        raise SpecError(
            f"The DAG's side has airflow-mlops {version}, the side that runs the step has {__version__}: "
            "install the same version on both sides."
        )


def _content(call: StepCall) -> bytes:
    return call.model_dump_json().encode()
