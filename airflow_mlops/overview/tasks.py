"""The stored result of a task, for its page in Airflow."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetCorruptError, DatasetFormatError, DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.results import OUTCOMES, task_folder
from airflow_mlops.data.store import ArtifactStore

Kind = Literal["evaluate", "monitor", "validate", "train", "search", "training_set", "promote", "score", "other"]

# Fields by which the kind of a result is recognised, for results of any release.
_FIELDS: dict[Kind, frozenset[str]] = {
    "evaluate": frozenset({"verdict", "reports"}),
    "monitor": frozenset({"decision", "report_url", "superseded"}),
    "validate": frozenset({"success", "docs_url"}),
    "search": frozenset({"study", "trials"}),
    "train": frozenset({"candidate", "run_id", "trainer"}),
    "training_set": frozenset({"dataset", "label", "features"}),
    "promote": frozenset({"promoted", "winner"}),
    "score": frozenset({"scored_by", "engine"}),
}


class TaskResult(Model):
    """The result of a task, with a summary.

    :param model: name of the registered model; ``None`` if the result names none
    :param result: the stored result of the step
    :param split: how a training set was split, and the evidence that no row is in both parts; empty for other tasks
    """

    kind: Kind
    model: str | None
    summary: str
    result: dict[str, Any] = Field(default_factory=dict)
    split: dict[str, Any] = Field(default_factory=dict)


def result(store: ArtifactStore, dag_id: str, run_id: str, task_id: str, map_index: int) -> TaskResult | None:
    """Return the newest result of a task; ``None`` if no step of this package has finished in the task.

    The result of a validation that failed or has not finished has only the outcomes of the expectations.

    :raises StoreError: the store cannot be read
    """
    place = Provenance(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index)
    folder = f"results/{task_folder(place)}/{map_index}"
    listed = {key: info for key, info in store.find_info(folder).items() if _is_result(key, folder)}
    # A task that was cleared also has a result from before the clear.
    newest = max(listed, key=lambda key: _written(listed[key]), default=None)
    try:
        since = _written(listed[newest]) if newest is not None else ""
        if (outcomes := _outcomes(store, folder, since)) is not None:
            return outcomes
        found = store.read_json(newest) if newest is not None else None
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        return None
    kind = next((kind for kind, fields in _FIELDS.items() if fields <= found.keys()), "other")
    split = _split(store, found) if kind == "training_set" else {}
    return TaskResult(kind=kind, model=_model(found), summary=str(found.get("summary", "")), result=found, split=split)


def _outcomes(store: ArtifactStore, folder: str, since: str) -> TaskResult | None:
    """Return the newest outcomes that a validation has stored after its last result; ``None`` if there are none.

    :param folder: folder of the task's results
    :param since: time of the last result, from :func:`_written`; empty without a result
    """
    found = store.find_info(f"checkpoints/{folder}")
    listed = {key: _written(info) for key, info in found.items() if key.endswith(f"/{OUTCOMES}")}
    newest = max(listed, key=lambda key: listed[key], default=None)
    if newest is None or listed[newest] <= since:
        return None
    outcomes = store.read_json(newest)
    passed = sum(bool(outcome["success"]) for outcome in outcomes)
    summary = f"{passed} of {counted(len(outcomes), 'expectation')} passed. The validation failed or has not finished."
    return TaskResult(kind="validate", model=None, summary=summary, result={"outcomes": outcomes})


def _split(store: ArtifactStore, found: dict[str, Any]) -> dict[str, Any]:
    # The dataset may have been deleted, or written by another release. The result is still shown, without the split.
    with suppress(ValidationError, DatasetNotFoundError, DatasetCorruptError, DatasetFormatError):
        ref = DatasetRef.model_validate(found["dataset"])
        return dict(read_manifest(store, ref.name, ref.id).details.get("split") or {})
    return {}


def _is_result(key: str, folder: str) -> bool:
    name = key.removeprefix(f"{folder}/")
    return "/" not in name and name.endswith(".json") and not name.startswith(".")


def _written(info: dict[str, Any]) -> str:
    """Return the time at which a file was written, as a text that sorts by time."""
    found = next(
        (info[name] for name in ("mtime", "LastModified", "last_modified", "updated", "created") if info.get(name)), ""
    )
    return f"{found:020.6f}" if isinstance(found, float) else str(found)


def _model(found: dict[str, Any]) -> str | None:
    nested = (found, *(found.get(name) for name in ("verdict", "candidate", "scored_by", "champion")))
    return next((str(item["model"]) for item in nested if isinstance(item, dict) and item.get("model")), None)
