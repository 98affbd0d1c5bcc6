"""Results of steps: written to the store before anyone is told, read back by a retry."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.store import ArtifactStore


def result_key(step: str, spec: dict[str, Any], provenance: Provenance, generation: int = 0) -> str:
    """The key of a step's result: stable over retries of a task, new for another spec or a cleared task.

    :param generation: how often a user cleared the task; each clearing asks for a new result
    """
    folder = f"{task_folder(provenance)}/{provenance.map_index}"
    return f"results/{folder}/{generation}-{fingerprint([step, spec])[:16]}.json"


def task_folder(provenance: Provenance) -> str:
    """A name for a task of one DAG run that all its mapped instances share."""
    parts = [provenance.dag_id, provenance.run_id, provenance.task_id]
    # "." stays quoted as well: "../" in a run id must not leave the folder.
    return "/".join(quote(part, safe="").replace(".", "%2E") for part in parts)


def earlier_results(store: ArtifactStore, key: str) -> int:
    """How often a user cleared the task after it had succeeded: results of the same step under other generations."""
    folder, _, name = key.rpartition("/")
    _, _, own = name.partition("-")
    return sum(found != key and found.endswith(f"-{own}") for found in store.keys(folder)) if own else 0


def read_result(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    """The finished result under ``key``, or ``None``."""
    try:
        return dict(store.read_json(key))
    except FileNotFoundError:
        return None


def write_result(store: ArtifactStore, key: str, result: dict[str, Any]) -> None:
    """Store a finished result under ``key``."""
    store.write_json(key, result)
