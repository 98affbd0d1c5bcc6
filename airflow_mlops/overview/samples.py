"""Samples of the rows that a validation has quarantined."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model, parse
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.quarantine import FAILED_EXPECTATIONS
from airflow_mlops.data.store import ArtifactStore

ROWS = 20
# Longer texts are cut: a table cannot show a text of several megabytes.
_LONGEST = 200


class Samples(Model):
    """The first rows of a dataset.

    :param dataset: the dataset; ``None`` if nothing was quarantined
    :param columns: names of the columns
    :param rows: values as text, by row and column; ``None`` is null
    """

    dataset: DatasetRef | None = None
    columns: list[str] = Field(default_factory=list)
    rows: list[list[str | None]] = Field(default_factory=list)


def quarantined(store: ArtifactStore, result: dict[str, Any]) -> Samples:
    """Return the first rows that a validation has quarantined.

    :param result: the stored result of the validation
    :raises SpecError: the result was written by another release, and names no dataset
    :raises DatasetNotFoundError: the dataset was deleted
    :raises DatasetCorruptError: the dataset was changed
    """
    if not result.get("quarantined"):
        return Samples()
    ref = parse(DatasetRef, result["quarantined"], "The result of the task")
    dataset = Dataset(store, read_manifest(store, ref.name, ref.id))
    batch = next((found for found in dataset.batches(batch_rows=ROWS) if found.num_rows), None)
    if batch is None:
        return Samples(dataset=ref)
    # The column with the unmet expectations comes first.
    names = sorted(batch.schema.names, key=lambda name: name != FAILED_EXPECTATIONS)
    rows = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
    return Samples(dataset=ref, columns=names, rows=[[_text(value) for value in row] for row in rows])


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
