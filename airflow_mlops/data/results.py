"""Results of steps. A step writes its result to the store before the task returns it, so that a retry finds it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.store import ArtifactStore


def result_key(step: str, spec: dict[str, Any], provenance: Provenance, generation: int = 0) -> str:
    """The key of a step's result. It is the same for all retries of a task, and differs for another spec or after a clear.

    :param generation: how often a user cleared the task; each generation has its own result
    """
    folder = f"{task_folder(provenance)}/{provenance.map_index}"
    return f"results/{folder}/{generation}-{fingerprint([step, spec])[:16]}.json"


def task_folder(provenance: Provenance) -> str:
    """The path of a task of one DAG run, shared by all its mapped instances."""
    parts = [provenance.dag_id, provenance.run_id, provenance.task_id]
    # quote() keeps ".", so "../" in a run id could leave the folder.
    return "/".join(quote(part, safe="").replace(".", "%2E") for part in parts)


def earlier_results(store: ArtifactStore, key: str) -> int:
    """The number of results that the same step has under other generations: how often a finished task was cleared."""
    folder, _, name = key.rpartition("/")
    _, _, own = name.partition("-")
    return sum(found != key and found.endswith(f"-{own}") for found in store.keys(folder)) if own else 0


def read_result(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    """The result stored under ``key``; ``None`` if the step has not finished."""
    try:
        return dict(store.read_json(key))
    except FileNotFoundError:
        return None


def write_result(store: ArtifactStore, key: str, result: dict[str, Any]) -> None:
    """Store a finished result under ``key``."""
    store.write_json(key, result)
