"""The model versions that made the predictions in datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow.compute as pc

from airflow_mlops.data.datasets import Dataset

_VERSION = "model_version"


def rows_by_version(dataset: Dataset) -> Counter[int]:
    """Return the number of predictions by each model version in a dataset; empty if the versions are unknown.

    Versions without predictions are left out, such as the version of a window in which a server got no requests.
    """
    manifest = dataset.manifest
    versions = manifest.details.get("model_versions")
    if versions and dataset.window == manifest.window:
        return Counter({int(number): rows for number, rows in versions.items() if rows})
    if _VERSION not in manifest.column_names or not (versions or "labelled" in manifest.details):
        known = manifest.details.get(_VERSION)
        return Counter() if known is None or not dataset.rows else Counter({int(known): dataset.rows})
    # The rows are counted if only a part of a dataset is checked, or if the manifest of labelled predictions was
    # written before manifests had `model_versions`.
    counts: Counter[int] = Counter()
    for batch in dataset.batches(columns=[_VERSION]):
        for item in pc.value_counts(batch.column(_VERSION)).to_pylist():
            if item["values"] is not None:
                counts[item["values"]] += item["counts"]
    return counts


def latest_version(datasets: Sequence[Dataset]) -> int | None:
    """Return the number of the version that made the latest predictions in ``datasets``; ``None`` if it is unknown.

    The manifest of the last dataset names the latest version. If this version made none of the predictions that are
    read, the highest version number is returned.

    :param datasets: datasets of predictions, ordered by time
    """
    numbers = set().union(*map(rows_by_version, datasets))
    named = datasets[-1].manifest.details.get(_VERSION)
    if named is not None and (not numbers or int(named) in numbers):
        return int(named)
    return max(numbers, default=None)
