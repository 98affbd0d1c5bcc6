"""Measure the drift of attributions, if the predictions were scored with ``explain=True``.

The reference is the first checked window of the version. A sample of it, of at most :data:`_UNITS` rows or clusters, is
stored as ``attributions/MODEL/VERSION.npz``. A repeated check of this window stores the sample again.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.windows import Window
from airflow_mlops.drift.attributions import COLUMN, Sample, compare, unmeasured
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.check import Check

_UNITS = 1_000
# Each row has a text and a number for each feature.
_BATCH_ROWS = 1_024


class _Stored(NamedTuple):
    """The sample of the reference. ``groups`` is the column that named its clusters, or ``None``."""

    window: Window
    groups: str | None
    sample: Sample


def drift(check: Check, reference: TrainingReference) -> list[Drift]:
    """Measure the drift of attributions against the first checked window of the version.

    :param reference: the training reference of the version that made the predictions
    :return: the drift, before the correction for multiple tests; empty if the predictions have no attributions
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    if not check.datasets or not check.has_columns(COLUMN):
        return []
    key = f"attributions/{check.model}/{reference.version.version}.npz"
    label, least = check.window.label, min(check.policy.min_rows, _UNITS)
    sample, rows = _sample(check, [feature.name for feature in reference.contract.features])
    if rows < least:
        return [unmeasured(f"{counted(rows, 'sampled row')} with attributions, {least:,} are needed", label)]
    if not np.isfinite(sample.sums).all():
        return [unmeasured("some attributions are not finite numbers", label)]
    known, content = _read(check, key), _bytes(_Stored(check.window, check.policy.groups, sample))
    # Of two windows that are checked at the same time, one becomes the reference.
    if known is None and not check.store.create_exclusive(key, content):
        known = _read(check, key)
    # Rows and clusters cannot be exchanged for each other, so the sample must be of the same kind.
    if known is None or known.window == check.window or known.groups != check.policy.groups:
        check.store.write_bytes(key, content)
        return [unmeasured(f"{label} is the reference for later windows of this version", label)]
    return [compare(known.sample, sample, known.window.label)]


def _sample(check: Check, features: list[str]) -> tuple[Sample, int]:
    """Return the attributions of a random sample of the rows, or of the clusters, and the number of rows in it."""
    groups = clusters.of_rows(check)
    count = check.rows if groups is None else int(groups.max(initial=-1)) + 1
    chosen = np.sort(np.random.default_rng(0).choice(count, min(count, _UNITS), replace=False))
    sums, rows = np.zeros((len(chosen), len(features))), np.zeros(len(chosen), dtype=np.int64)
    seen, start, names = np.zeros(len(features), dtype=bool), 0, pa.array(features, pa.string())
    for batch in check.batches([COLUMN], _BATCH_ROWS):
        ids = np.arange(start, start + batch.num_rows)
        start += batch.num_rows
        units = ids if groups is None else groups[ids]
        places = np.searchsorted(chosen, units).clip(max=len(chosen) - 1)
        lists = batch.column(COLUMN)
        kept = (chosen[places] == units) & lists.is_valid().to_numpy(zero_copy_only=False)
        if not kept.any():
            continue
        lists, places = lists.filter(pa.array(kept)), places[kept]
        np.add.at(rows, places, 1)
        items, owners = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
        columns = pc.index_in(items.field("feature"), value_set=names).fill_null(-1).to_numpy()
        known = columns >= 0
        values = np.abs(items.field("value").to_numpy(zero_copy_only=False))
        np.add.at(sums, (places[owners[known]], columns[known]), values[known])
        seen[columns[known]] = True
    return Sample(
        [name for name, is_seen in zip(features, seen, strict=True) if is_seen], sums[rows > 0][:, seen]
    ), int(rows.sum())


def _bytes(stored: _Stored) -> bytes:
    target = io.BytesIO()
    about = {"window": stored.window.model_dump(mode="json"), "groups": stored.groups}
    np.savez_compressed(
        target,
        about=np.frombuffer(json.dumps({**about, "features": stored.sample.features}).encode(), dtype=np.uint8),
        sums=stored.sample.sums,
    )
    return target.getvalue()


def _read(check: Check, key: str) -> _Stored | None:
    """Return the stored sample; ``None`` if there is none, or it is damaged."""
    try:
        with np.load(io.BytesIO(check.store.read_bytes(key)), allow_pickle=False) as file:
            about, sums = json.loads(file["about"].tobytes()), file["sums"]
        return _Stored(Window.model_validate(about["window"]), about["groups"], Sample(about["features"], sums))
    except (FileNotFoundError, zipfile.BadZipFile, EOFError, ValueError, KeyError):
        return None
