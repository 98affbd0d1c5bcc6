"""Summarise the prediction log of a model: counts, speed, inputs, features, scores and realised performance.

The rows are streamed once into profiles. Only labels and scores are loaded into memory, for one dataset of labelled
predictions at a time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.datasets import Dataset, Manifest, current_datasets, in_slot
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics import realised as performance
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.numeric import NumericColumn, is_numeric
from airflow_mlops.profiles.profile import ColumnProfile, Profile, counter_for, merge, profile
from airflow_mlops.stages.predictions.realised import measured
from airflow_mlops.stages.predictions.summary import (
    FeatureSummary,
    LogSummary,
    MetricSummary,
    OutcomeSummary,
    PredictionCount,
    ResultSummary,
    ScoringInput,
    ScoringSpeed,
)

BATCH_ROWS = 16_384
# The largest number of classes in the summary; the most frequent ones are listed.
_MAX_CLASSES = 10


def summary(log: PredictionLog, outcomes: str, within: Window | None = None) -> LogSummary:
    """Summarise the current predictions of a model and the labels that were joined to them.

    :param log: prediction log of the model
    :param outcomes: name of the datasets of labelled predictions
    :param within: summarise only windows inside this window; by default all windows
    :raises DatasetCorruptError: a file was changed or does not exist
    """
    entries = log.entries(within)
    present = [Dataset(log.store, manifest) for manifest in entries if manifest.purged is None]
    scanned = {dataset.manifest.id: _ScannedDataset(dataset) for dataset in present}
    times = Counter((manifest.window, manifest.details["model_version"]) for manifest in log.history(within))
    versions: dict[int, list[_ScannedDataset]] = defaultdict(list)
    for manifest in entries:
        if manifest.id in scanned:
            versions[manifest.details["model_version"]].append(scanned[manifest.id])
    return LogSummary(
        model=log.model,
        how_many=[_count(manifest, times) for manifest in entries],
        how_fast=[_speed(manifest, scanned[manifest.id]) for manifest in entries if manifest.id in scanned],
        inputs=[_input(manifest) for manifest in entries],
        features=[row for version in sorted(versions) for row in _features(version, versions[version])],
        results=[_result(version, versions[version]) for version in sorted(versions)],
        happened=_outcomes(present, log, outcomes),
    )


class _ScannedDataset:
    """The counts and profiles of one dataset of predictions, from one pass over the rows."""

    def __init__(self, dataset: Dataset) -> None:
        self.details = dataset.manifest.details
        self.rows = dataset.manifest.rows
        self.predicted: Counter[Any] = Counter()
        fields = dataset.schema
        # Hashed features are not summarised.
        self.features = [
            name
            for name in self.details["features"]
            if name in fields.names and name not in self.details.get("hashed", ())
        ]
        types = {name: fields.field(name).type for name in self.features}
        # A column without values may have the null type and cannot be merged with the same column of other windows.
        self.empty = [name for name in self.features if pa.types.is_null(types[name])]
        shown = [name for name in self.features if counter_for(types[name]) and name not in self.empty]
        columns = [*shown, "score", "latency_ms"]
        self.profile: Profile = profile(self._counted(dataset, columns), columns)

    def _counted(self, dataset: Dataset, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in dataset.batches(columns=[*columns, "prediction"], batch_rows=BATCH_ROWS):
            if self.details["task"] != "regression":
                self.predicted.update(_counts(batch.column("prediction")))
            yield batch

    def numbers(self, column: str) -> NumericColumn | None:
        found = self.profile.columns.get(column)
        return found if isinstance(found, NumericColumn) else None


def _counts(values: pa.Array) -> dict[Any, int]:
    found = pc.value_counts(values)
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _label(window: Window | None) -> str | None:
    return window.label if window else None


def _count(manifest: Manifest, times: Counter[tuple[Window | None, int]]) -> PredictionCount:
    version = manifest.details["model_version"]
    return PredictionCount(
        window=_label(manifest.window),
        version=version,
        rows=manifest.rows,
        scored=manifest.created,
        times=times[manifest.window, version] if manifest.window else 1,
        deleted=manifest.purged,
    )


def _speed(manifest: Manifest, scanned: _ScannedDataset) -> ScoringSpeed:
    seconds = manifest.source.get("seconds")
    return ScoringSpeed(
        window=_label(manifest.window),
        version=manifest.details["model_version"],
        rows_per_second=manifest.rows / seconds if seconds else None,
        latency_ms=_quantiles(scanned.numbers("latency_ms"), {"p50": 0.5, "p90": 0.9, "p99": 0.99}),
        engine=str(manifest.details.get("engine") or ""),
    )


def _quantiles(column: NumericColumn | None, ranks: dict[str, float]) -> dict[str, float]:
    if column is None or not column.valid:
        return {}
    return dict(zip(ranks, column.quantiles(list(ranks.values())).tolist(), strict=True))


def _input(manifest: Manifest) -> ScoringInput:
    where, part = manifest.provenance, manifest.source.get("part")
    return ScoringInput(
        window=_label(manifest.window),
        version=manifest.details["model_version"],
        source=f"{manifest.source.get('dataset', '')}{f' ({part})' if part else ''}",
        datasets=manifest.parents,
        predictions=manifest.id,
        run=" ".join(filter(None, [where.dag_id, where.run_id, where.task_id])),
    )


def _features(version: int, scanned: Sequence[_ScannedDataset]) -> Iterator[FeatureSummary]:
    for name in dict.fromkeys(name for item in scanned for name in item.details["features"]):
        holding = [item for item in scanned if name in item.features]
        if not holding:
            fate = "hashed" if any(name in item.details.get("hashed", ()) for item in scanned) else "dropped"
            yield FeatureSummary(version=version, feature=name, kept=fate)
            continue
        column = _together(name, holding)
        empty = sum(item.rows for item in holding if name in item.empty)
        rows = empty + (column.rows if column is not None else 0)
        missing = (rows - (column.valid if column is not None else 0)) / rows if rows else None
        summary = _summary(column) if column is not None else {}
        yield FeatureSummary(version=version, feature=name, missing=missing, **summary)


def _together(name: str, scanned: Iterable[_ScannedDataset]) -> ColumnProfile | None:
    """Merge the profiles of a column in all datasets that have the column; ``None`` if no dataset has it."""
    parts = [
        Profile(rows=item.profile.rows, columns={name: item.profile.columns[name]})
        for item in scanned
        if name in item.profile.columns
    ]
    return merge(parts).columns[name] if parts else None


def _summary(column: ColumnProfile) -> dict[str, Any]:
    if isinstance(column, CategoricalColumn):
        # If no value is frequent, none is reported.
        return {"most_frequent": column.top[0][0], "share": column.top[0][1] / column.rows} if column.top else {}
    return {"mean": column.mean} if isinstance(column, NumericColumn) else {}


def _result(version: int, scanned: Sequence[_ScannedDataset]) -> ResultSummary:
    rows = sum(item.rows for item in scanned)
    score = _together("score", scanned)
    predicted: Counter[Any] = sum((item.predicted for item in scanned), Counter())
    ranks = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
    return ResultSummary(
        version=version,
        rows=rows,
        score=_quantiles(score if isinstance(score, NumericColumn) else None, ranks),
        predicted=_shares(predicted),
    )


def _shares(counts: Counter[Any]) -> dict[str, float]:
    total = sum(counts.values())
    return {_text(value): count / total for value, count in counts.most_common(_MAX_CLASSES)}


def _text(value: Any) -> str:
    if value is None:
        return "no prediction"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outcomes(present: Sequence[Dataset], log: PredictionLog, outcomes: str) -> list[OutcomeSummary]:
    found: dict[tuple[str, int], tuple[Dataset | None, Dataset]] = {}
    for dataset, joined in _joined(present, log.store, outcomes):
        # A dataset of labelled predictions may cover several windows. It is reported once for each version.
        about = joined.manifest.id if joined is not None else dataset.manifest.id
        found[about, dataset.manifest.details["model_version"]] = (joined, dataset)
    return [_outcome(joined, dataset) for joined, dataset in found.values()]


def _joined(
    present: Sequence[Dataset], store: ArtifactStore, outcomes: str
) -> Iterator[tuple[Dataset, Dataset | None]]:
    """Yield each dataset of predictions with its labelled predictions.

    If labels were joined only to parts of a dataset, the dataset is yielded once for each of these parts. If no labels
    were joined, or if the labelled predictions were purged, the dataset is yielded with ``None``.
    """
    whole = {dataset.manifest.id: in_slot(store, outcomes, dataset.manifest.id) for dataset in present}
    windows = [dataset.window for dataset in present if dataset.window and whole[dataset.manifest.id] is None]
    parts: list[Dataset] = []
    if windows:
        reach = Window(start=min(window.start for window in windows), end=max(window.end for window in windows))
        parts = current_datasets(store, outcomes, reach)
    for dataset in present:
        joined = whole[dataset.manifest.id]
        own = [joined] if joined else [part for part in parts if dataset.manifest.id in part.manifest.parents]
        unpurged = [item for item in own if item.manifest.purged is None]
        yield from ((dataset, item) for item in unpurged)
        if not unpurged:
            yield dataset, None


def _outcome(joined: Dataset | None, predictions: Dataset) -> OutcomeSummary:
    version = predictions.manifest.details["model_version"]
    if joined is None:
        window = _label(predictions.manifest.window)
        rows = predictions.manifest.rows
        return OutcomeSummary(
            window=window, version=version, rows=rows, labelled=0, note="no labels were joined to these predictions"
        )
    contract = _contract(predictions.manifest)
    tally = _Tally(contract.task)
    batches = tally.counted(joined, version)
    others: list[MetricSummary] = []
    try:
        found = performance.outcomes(batches, contract)
    except performance.UnmeasurableError as error:
        main, quantile = MetricSummary(metric="", note=str(error)), None
        # The labels are counted even if no metric can be measured.
        for _ in batches:
            pass
    else:
        (main, *others), quantile = measured(joined, predictions.manifest, contract, found)
    return OutcomeSummary(
        window=_label(joined.manifest.window),
        version=version,
        rows=tally.rows,
        labelled=tally.labelled,
        coverage=tally.labelled / tally.rows if tally.rows else None,
        observed=tally.observed(),
        metric=main.metric if main.value is not None else None,
        value=main.value,
        low=main.low,
        high=main.high,
        note=main.note,
        others=others,
        quantile=quantile,
    )


def _contract(manifest: Manifest) -> ModelContract:
    """Return a model contract with the fields that the prediction log contains. All other fields are empty."""
    details = manifest.details
    return ModelContract(
        task=details["task"],
        label="",
        features=[],
        classes=details["classes"],
        positive=details["positive"],
        dataset_name="",
        dataset_id="",
    )


class _Tally:
    """Counts predictions and labels while the rows are streamed."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.rows = self.labelled = 0
        self.classes: Counter[Any] = Counter()
        self.sum = 0.0

    def counted(self, joined: Dataset, version: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one version with the columns that performance metrics need. Count rows and labels."""
        columns = [*performance.COLUMNS, "model_version"]
        for batch in joined.batches(columns=columns, batch_rows=BATCH_ROWS):
            own = batch.filter(pc.equal(batch.column("model_version"), version))
            labels = own.column(LABEL)
            labels = labels.filter(pc.invert(pc.is_null(labels, nan_is_null=True)))
            self.rows += own.num_rows
            self.labelled += len(labels)
            if self.task != "regression":
                self.classes.update(_counts(labels))
            elif is_numeric(labels.type) and len(labels):
                self.sum += float(pc.sum(labels.cast(pa.float64(), safe=False)).as_py())
            yield own

    def observed(self) -> dict[str, float]:
        """Return the share of each class among the labels; for a regression, the mean label as ``mean``.

        The result is empty if there are no labels.
        """
        if not self.labelled:
            return {}
        return {"mean": self.sum / self.labelled} if self.task == "regression" else _shares(self.classes)
