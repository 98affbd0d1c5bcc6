"""The drift of a model's features: which features drifted in which windows, and the distributions of one of them.

A copy of the fields of the last reports that the map needs is stored as ``indexes/drift/MODEL.json.gz``
(:mod:`airflow_mlops.overview.copies`), so that the map takes few requests.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.timeline import window_of
from airflow_mlops.drift.findings import Bin
from airflow_mlops.overview import copies
from airflow_mlops.overview.facts import TREND, WindowFacts
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry.ledger import folder_name

LONGEST = 200
"""Largest number of windows in a map."""

# Version of the stored copy, and the largest number of reports that are read without a copy.
_VERSION, _FEW = 1, 3


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

    :param features: the features, ordered by the sum of effect times importance over the windows in which they drifted
        or were broken (:mod:`airflow_mlops.drift.breakage`). In this sum, the effect of a broken feature is 1. If the
        importance of a feature is unknown, 1 is used. Ties are ordered by the sum of the effects alone, then by
        importance, then by name
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


class _Feature(Model):
    """The drift of a feature in one window, see :class:`airflow_mlops.drift.findings.Drift`."""

    column: str
    effect: float | None = None
    drifted: bool = False
    broken: bool = False
    importance: float | None = None


class _Windowed(Model):
    """The fields of a monitoring report that the drift map shows."""

    window: WindowFacts
    features: list[_Feature] = Field(default_factory=list)


def drift_map(store: ArtifactStore, model: str, features: int, windows: int) -> DriftMap:
    """Return the drift of the features that matter most, in the last windows.

    :param features: largest number of features
    :param windows: largest number of windows, at most ``LONGEST``
    :raises StoreError: the store cannot be read
    """
    reports = _last(store, model, windows)
    by_column: dict[str, dict[int, _Feature]] = defaultdict(dict)
    for number, report in enumerate(reports):
        for feature in report.features:
            by_column[feature.column][number] = feature
    ranked = sorted(by_column, key=lambda column: (*_rank(by_column[column]), column))[:features]
    return DriftMap(
        features=[RankedFeature(column=name, importance=_importance(by_column[name])) for name in ranked],
        windows=[report.window for report in reports],
        cells=[[_cell(by_column[name].get(number)) for number in range(len(reports))] for name in ranked],
    )


def refresh(store: ArtifactStore, model: str) -> None:
    """Add the reports of the last windows to the stored copy.

    :raises StoreError: the store cannot be read
    """
    _last(store, model, TREND)


def _last(store: ArtifactStore, model: str, windows: int) -> list[_Windowed]:
    """Return the drift in the last windows, ordered by time. Reports that cannot be read are left out."""
    key = f"indexes/drift/{folder_name(model)}.json.gz"
    info = archive.all_info(store, model)
    dated = [(window, report) for report in info if (window := window_of(report)) is not None]
    ordered = [report for window, report in sorted(dated, key=lambda item: (item[0].start, item[0].end))]
    wanted = {report: info[report] for report in ordered[-windows:]}
    known = copies.load(store, key, _VERSION) if len(wanted) > _FEW else {}
    found, made = copies.read_models(_Windowed, store, wanted, _short, known)
    if len(wanted) > _FEW and found.read:
        kept = {report: found.known[report] for report in ordered[-LONGEST:] if report in found.known}
        copies.save(store, key, _VERSION, {**kept, **found.values})
    return made


def _short(key: str, content: bytes) -> Any:
    """Return the fields of a report that the drift map shows; ``None`` if the report has an incompatible format."""
    report = _parsed(content)
    if report is None:
        return None
    features = [_Feature(**{name: getattr(drift, name) for name in _Feature.model_fields}) for drift in report.features]
    short = _Windowed(window=WindowFacts.of(report.window), features=features)
    return short.model_dump(mode="json", exclude_defaults=True)


def _parsed(content: bytes) -> Report | None:
    try:
        return Report.model_validate_json(content)
    except ValidationError:
        return None


def _rank(found: dict[int, _Feature]) -> tuple[float, float, float]:
    """Return the key by which features are ordered, see :class:`DriftMap`."""
    weighted = effects = 0.0
    for drift in found.values():
        if drift.drifted or drift.broken:
            effect = 1.0 if drift.broken else drift.effect or 0.0
            effects += effect
            weighted += effect * (drift.importance if drift.importance is not None else 1.0)
    return -weighted, -effects, -(_importance(found) or 0.0)


def _importance(found: dict[int, _Feature]) -> float | None:
    return found[max(found)].importance


def _cell(drift: _Feature | None) -> Cell | None:
    return Cell(effect=drift.effect, drifted=drift.drifted, broken=drift.broken) if drift is not None else None


def column(store: ArtifactStore, model: str, name: str, window: Window) -> ColumnDrift | None:
    """Return the drift of a feature, a watched column, the scores or the labels in a window.

    :return: ``None`` if the column was not measured in the window
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
