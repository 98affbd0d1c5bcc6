"""Run one step and store the result. If the result is already stored, the step does not run again."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any, get_type_hints

from airflow_mlops.core import resource_errors
from airflow_mlops.core.arrow_memory import use_malloc
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Result, StepCall
from airflow_mlops.core.connections import ConnectionResolver, from_environment
from airflow_mlops.core.cpus import limit_libraries
from airflow_mlops.core.temporary import remove_abandoned
from airflow_mlops.data.results import read_result, write_result
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import library_errors
from airflow_mlops.stages.cache import Cached, types
from airflow_mlops.stages.calls import check_version
from airflow_mlops.stages.context import FinishedElsewhereError, StepContext
from airflow_mlops.stages.executors import Executors
from airflow_mlops.stages.usage import Meter, record

log = logging.getLogger("airflow_mlops.stages")
# The steps with which the training of a model begins. They answer the requests that started the DAG run.
_TRAINING_STEPS = frozenset({"training_set", "search", "train"})
_FINISHED_ELSEWHERE = "Another try of this task has finished the step in the meantime. Its stored result is returned."


def run_call(
    call: StepCall, connection: ConnectionResolver = from_environment, executors: Executors | None = None
) -> dict[str, Any]:
    """Run the step that ``call`` describes, and return the result of the step as a dict of JSON values.

    If the artifact store already contains the result, the step does not run. The same applies if ``call.cache`` is
    ``use`` and the cache contains a result for the same inputs. In a TrainJob, only node 0 returns the result. The
    other nodes return ``{}``.

    If a data library raises an error that a retry cannot correct, its traceback is logged, and
    :class:`UnsupportedDataError` is raised. An exception of the user's own code is raised unchanged.

    :param connection: function that looks up an Airflow connection by its id
    :param executors: machines that run parts of the step; by default the step runs in this process only
    :raises SpecError: a different version of this package created the call, or the spec of the step is invalid
    :raises UnsupportedDataError: a library such as Arrow, DuckDB or pandas cannot process the data
    :raises MLOpsError: the step failed
    """
    check_version(call.version)
    store = ArtifactStore(call.store)
    finished = read_result(store, call.key)
    if finished is not None:
        log.info(
            "An earlier try of this task finished the step. Its stored result is returned, and the step does not run "
            "again."
        )
        return finished
    # By default, waiting OpenMP threads keep their CPU busy, which made two concurrent trainings on two cores forty
    # times slower. OpenMP reads this variable when its library is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_libraries()
    use_malloc()
    remove_abandoned()
    try:
        answer, cached = _run(call, store, connection, executors)
    except FinishedElsewhereError:
        log.info(_FINISHED_ELSEWHERE)
        return read_result(store, call.key) or {}
    except Exception as error:
        exhausted = resource_errors.explain(error)
        if exhausted is not None:
            raise exhausted from error
        explained = library_errors.explain(error, call.step)
        if explained is None:
            raise
        log.error("The step %r cannot process its data. The traceback of the library:", call.step, exc_info=True)
        raise explained from None
    if answer and not write_result(store, call.key, answer):
        log.info(_FINISHED_ELSEWHERE)
        return read_result(store, call.key) or {}
    if cached is not None:
        cached.keep(answer)
    return answer


def _run(
    call: StepCall, store: ArtifactStore, connection: ConnectionResolver, executors: Executors | None
) -> tuple[dict[str, Any], Cached | None]:
    """Run the step, or take its result from the cache. The result is empty on all nodes of a TrainJob except node 0.

    :return: the result, and the cache entry in which it must be stored; ``None`` instead of the entry if the result is
        not stored in the cache
    """
    name = f"airflow_mlops.stages.{call.step}.step"
    kind = get_type_hints(importlib.import_module(name).run)["spec"] if call.cache is None else types(call.step)[0]
    spec = parse(kind, call.spec, f"Step {call.step!r}")
    meter = Meter(store)
    context = StepContext(
        store=store,
        key=call.key,
        connection=connection,
        provenance=call.provenance,
        meter=meter,
        executors=executors,
    )
    # Kubeflow Trainer sets this variable for torchrun. All nodes receive the same call, and node 0 stores the result.
    if int(os.environ.get("PET_NODE_RANK") or 0):
        importlib.import_module(name).assist(spec, context)
        return {}, None
    if call.step in _TRAINING_STEPS and call.provenance.requests:
        from airflow_mlops.overview import index
        from airflow_mlops.registry import requests

        requests.answer(store, call.provenance)
        for model in sorted({request.model for request in call.provenance.requests}):
            index.update(store, model, "decisions")
    cached = Cached(call, spec, context) if call.cache is not None else None
    result: Result | None = cached.find() if cached is not None else None
    is_computed = result is None
    if result is None:
        result = importlib.import_module(name).run(spec, context)
    usage = meter.usage()
    log.info("%s", usage.sentence())
    # The usage of a cached step must not replace the recorded usage of the training.
    if is_computed and result.mlflow_runs():
        context.require_unfinished()
        record(meter.of_all_shards(usage), call.step, result, spec, connection)
    answer = result.model_copy(update={"usage": usage}).model_dump(mode="json")
    return answer, cached if is_computed else None
