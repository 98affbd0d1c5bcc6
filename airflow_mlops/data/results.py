"""Results of steps in the artifact store. A result is stored before the task returns it, so a retry finds it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Origin, Provenance, StepCall
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.data.store import ArtifactStore, as_json

OUTCOMES = "outcomes.json"
"""Name of the file with the results of a validation's expectations, see :func:`outcomes_key`."""


def result_key(step: str, spec: dict[str, Any], provenance: Provenance, series: str = "0") -> str:
    """Return the key of a step's result in the artifact store.

    All retries of a task have the same key. The key changes if the spec changes, or if a user clears the task.

    :param step: name of the step
    :param spec: spec of the step as JSON
    :param provenance: Airflow task that runs the step
    :param series: identifier, without hyphens, of the tries that share a result. A new series begins when the task is
        cleared
    """
    folder = f"{task_folder(provenance)}/{provenance.map_index}"
    return f"results/{folder}/{series}-{fingerprint([step, spec])[:16]}.json"


def task_folder(provenance: Provenance) -> str:
    """Return the folder of a task in one DAG run. All mapped instances of the task have the same folder."""
    parts = [provenance.dag_id, provenance.run_id, provenance.task_id]
    # quote() does not escape ".", so "../" in a run id could leave the folder.
    return "/".join(quote(part, safe="").replace(".", "%2E") for part in parts)


def outcomes_key(key: str) -> str:
    """Return the key under which a validation stores the results of its expectations, even if the validation fails.

    :param key: key of the validation's result, from :func:`result_key`
    """
    return f"checkpoints/{key.removesuffix('.json')}/{OUTCOMES}"


def earlier_results(store: ArtifactStore, key: str) -> int:
    """Count the other stored results of the same task and spec. They were written before the task was cleared.

    :param key: key of the task's own result, from :func:`result_key`
    """
    folder, _, name = key.rpartition("/")
    _, _, own = name.partition("-")
    return sum(found != key and found.endswith(f"-{own}") for found in store.keys(folder)) if own else 0


def read_result(store: ArtifactStore, key: str) -> dict[str, Any] | None:
    """Read the result stored under ``key``; return ``None`` if the step has not finished."""
    try:
        return dict(store.read_json(key))
    except FileNotFoundError:
        return None


def write_result(store: ArtifactStore, key: str, result: dict[str, Any]) -> bool:
    """Store the result of a finished step under ``key``, unless another try of the task has stored its result.

    :return: whether the store has this result
    """
    return store.create_exclusive(key, as_json(result))


class CacheEntry(Model):
    """An entry of the cache, which names the task that computed the result for some inputs.

    :param origin: the task, and the key of its result
    :param result: fingerprint of the result
    :param artifacts: hashes of the artifacts to which the result refers, by name
    """

    origin: Origin
    result: str
    artifacts: dict[str, str]


def read_cached(store: ArtifactStore, step: str, inputs: str) -> tuple[CacheEntry, dict[str, Any]] | None:
    """Return the entry of the cache for these inputs, and the result; ``None`` if they do not exist or were changed.

    :param store: the artifact store
    :param step: name of the step
    :param inputs: fingerprint of everything that determines the result
    """
    try:
        entry = CacheEntry.model_validate(store.read_json(_cache_key(step, inputs)))
    except (FileNotFoundError, ValidationError):
        return None
    result = read_result(store, entry.origin.key)
    return (entry, result) if result is not None and fingerprint(result) == entry.result else None


def write_cached(
    store: ArtifactStore, call: StepCall, inputs: str, result: dict[str, Any], artifacts: dict[str, str]
) -> None:
    """Add the stored result of a step to the cache.

    If two tasks have the same inputs, the later task replaces the entry.

    :param store: the artifact store
    :param call: the task, and the key of its result
    :param inputs: fingerprint of everything that determines the result
    :param result: the result as JSON
    :param artifacts: hashes of the artifacts to which the result refers, by name
    """
    task = call.provenance
    origin = Origin(
        dag_id=task.dag_id,
        run_id=task.run_id,
        task_id=task.task_id,
        map_index=task.map_index,
        key=call.key,
        time=datetime.now(timezone.utc),
    )
    entry = CacheEntry(origin=origin, result=fingerprint(result), artifacts=artifacts)
    store.write_json(_cache_key(call.step, inputs), entry.model_dump(mode="json"))


def _cache_key(step: str, inputs: str) -> str:
    return f"cache/{step}/{inputs}.json"
