"""The drift of a model's features: which features drifted in which windows, and the distributions of one of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Bin, Drift
from airflow_mlops.overview import monitoring
from airflow_mlops.overview.facts import WindowFacts
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report


class RankedFeature(Model):
    """A feature of the heat map.

    :param importance: its share of the total permutation importance in the last window; ``None`` if unknown
    """

    column: str
    importance: float | None


class Cell(Model):
    """The drift of a feature in a window.

    :param effect: size of the change as a share of rows; ``None`` if it was not measured
    """

    effect: float | None
    drifted: bool
    broken: bool


class DriftMap(Model):
    """The drift of features by windows.

    :param features: the features, ordered by the sum of effect times importance over the windows in which they drifted or
        were broken. A feature of unknown importance counts with its effect
    :param windows: the windows, ordered by time
    :param cells: for each feature, its drift in each window; ``None`` if the window did not measure the feature
    """

    features: list[RankedFeature] = Field(default_factory=list)
    windows: list[WindowFacts] = Field(default_factory=list)
    cells: list[list[Cell | None]] = Field(default_factory=list)


class ColumnDrift(Model):
    """The drift of one column in one window, see :class:`airflow_mlops.drift.findings.Drift`.

    :param reference: what the column is compared with: ``training``, or the label of earlier windows
    :param note: what is unusual about the column
    """

    column: str
    window: WindowFacts
    kind: str
    reference: str
    bins: list[Bin]
    effect: float | None
    test: str | None
    adjusted_p_value: float | None
    drifted: bool
    broken: bool
    fault: str | None
    importance: float | None
    missing: float
    missing_reference: float
    note: str


def drift_map(store: ArtifactStore, model: str, features: int, windows: int) -> DriftMap:
    """Return the drift of the features that matter most, in the last windows.

    :param features: largest number of features
    :param windows: largest number of windows
    :raises StoreError: the store cannot be read
    """
    points, _ = monitoring.points(store, model)
    found = store.read_many(monitoring.report_key(point) for point in points[-windows:])
    reports = [report for content in found.values() if (report := _parsed(content)) is not None]
    by_column: dict[str, dict[int, Drift]] = defaultdict(dict)
    for number, report in enumerate(reports):
        for drift in report.features:
            by_column[drift.column][number] = drift
    ranked = sorted(by_column, key=lambda column: (-_weight(by_column[column].values()), column))[:features]
    return DriftMap(
        features=[RankedFeature(column=name, importance=_importance(by_column[name])) for name in ranked],
        windows=[WindowFacts.of(report.window) for report in reports],
        cells=[[_cell(by_column[name].get(number)) for number in range(len(reports))] for name in ranked],
    )


def _parsed(content: bytes) -> Report | None:
    try:
        return Report.model_validate_json(content)
    except ValidationError:
        return None


def _weight(found: Iterable[Drift]) -> float:
    total = 0.0
    for drift in found:
        if drift.drifted or drift.broken:
            effect = 1.0 if drift.broken else drift.effect or 0.0
            total += effect * (drift.importance if drift.importance is not None else 1.0)
    return total


def _importance(found: dict[int, Drift]) -> float | None:
    return found[max(found)].importance


def _cell(drift: Drift | None) -> Cell | None:
    return Cell(effect=drift.effect, drifted=drift.drifted, broken=drift.broken) if drift is not None else None


def column(store: ArtifactStore, model: str, name: str, window: Window) -> ColumnDrift | None:
    """Return the drift of a feature, a watched column, the scores or the labels; ``None`` if the window did not measure it.

    :raises StoreError: the store cannot be read
    """
    try:
        report = _parsed(store.read_bytes(archive.existing(store, model, window)))
    except FileNotFoundError:
        return None
    if report is None:
        return None
    columns = [*report.features, *report.watched, report.prediction, report.label]
    found = next((item for item in columns if item is not None and item.column == name), None)
    if found is None:
        return None
    return ColumnDrift(
        window=WindowFacts.of(report.window),
        note=found.remark,
        **{field: getattr(found, field) for field in ColumnDrift.model_fields if field not in ("window", "note")},
    )
