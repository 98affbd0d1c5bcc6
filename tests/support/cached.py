"""Steps that run with the cache, as tasks of DAG runs do."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_type_hints

from airflow_mlops import __version__
from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import CacheUse, Provenance, Request, StepCall
from airflow_mlops.data.results import result_key
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.cache import Cached
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.runner import run_call


def run_step(
    store: ArtifactStore,
    step: str,
    run_id: str,
    cache: CacheUse | None = "use",
    task_id: str = "task",
    dag_id: str = "dag",
    **spec: Any,
) -> dict[str, Any]:
    """Run a step in the DAG run ``run_id``, and return its result as JSON."""
    content = parse(_spec_type(step), spec, "The step").model_dump(mode="json")
    provenance = Provenance(dag_id=dag_id, run_id=run_id, task_id=task_id)
    key = result_key(step, content, provenance)
    return run_call(
        StepCall(
            step=step,
            spec=content,
            store=store.url,
            key=key,
            version=__version__,
            provenance=provenance,
            cache=cache,
        )
    )


def inputs_key(
    store: ArtifactStore, step: str, spec: dict[str, Any], provenance: Provenance | None = None
) -> str | None:
    """Return the fingerprint of the inputs of a step; ``None`` if the step is not cached."""
    parsed = parse(_spec_type(step), spec, "The step")
    provenance = provenance or Provenance()
    content = parsed.model_dump(mode="json")
    call = StepCall(step=step, spec=content, store=store.url, key="k", version=__version__, cache="use")
    return Cached(call, parsed, StepContext(store=store, provenance=provenance))._key


def request(model: str, number: str) -> Request:
    """Return a retraining request."""
    return Request(id=number, model=model, triggers=[], reason="", window="2024-01", created="2024-02-01T00:00:00Z")


def _spec_type(step: str) -> Any:
    return get_type_hints(import_module(f"airflow_mlops.stages.{step}.step").run)["spec"]
