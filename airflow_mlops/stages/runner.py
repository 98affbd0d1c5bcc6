"""Runs one call: finds its step, skips what is finished, stores the result before it is returned."""

from __future__ import annotations

import importlib
import json
import logging
import os
from typing import Any, get_type_hints

from airflow_mlops import __version__
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Result, StepCall
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.results import read_result, write_result
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext

log = logging.getLogger("airflow_mlops.stages")


def read_call(text: str | bytes) -> StepCall:
    """The call as another process wrote it.

    :raises SpecError: that process has another version of this package
    """
    content = json.loads(text)
    # Before the rest is looked at: another version may know other fields.
    _check_version(str(content.get("version")))
    return StepCall.model_validate(content)


def _check_version(version: str) -> None:
    if version != __version__:
        raise SpecError(
            f"The DAG's side has airflow-mlops {version}, the side that runs the step has {__version__}: "
            "install the same version in both."
        )


def run_call(call: StepCall, connection: ConnectionResolver = from_environment) -> dict[str, Any]:
    """Run ``call`` unless its result is in the store already, and return the result as JSON.

    :raises MLOpsError: what the step raises
    """
    _check_version(call.version)
    store = ArtifactStore(call.store)
    finished = read_result(store, call.key)
    if finished is not None:
        log.info("An earlier try finished this step; its result is used and nothing runs again.")
        return finished
    # Tasks share a machine's cores, and OpenMP's threads wait by spinning unless it is told otherwise before it is
    # loaded: two trainings on two cores took forty times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = importlib.import_module(f"airflow_mlops.stages.{call.step}.step")
    spec = parse(get_type_hints(module.run)["spec"], call.spec, f"Step {call.step!r}")
    context = StepContext(store=store, key=call.key, connection=connection, provenance=call.provenance)
    # As Kubeflow Trainer tells torchrun. All nodes get the same call, and the first one stores the result.
    if int(os.environ.get("PET_NODE_RANK") or 0):
        module.assist(spec, context)
        return {}
    result: Result = module.run(spec, context)
    answer = result.model_dump(mode="json")
    write_result(store, call.key, answer)
    return answer
