"""Held-out windows: the metric of each window, and the gap between the rows of a fold."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.errors import TrainingError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import HeldOut, Measurement
from airflow_mlops.metrics.resampling import Resampling
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.models.training_data import read_part
from airflow_mlops.registry.records.verdict import HeldOutWindow
from airflow_mlops.stages.evaluate.measurement import Compared, Measured
from airflow_mlops.stages.evaluate.windows import by_window
from airflow_mlops.stages.search.folds import make_folds
from tests.support.training import timed, training_set

START = datetime(2024, 1, 1, tzinfo=timezone.utc)


def dataset(tmp_path, split):
    store = ArtifactStore(tmp_path.as_uri())
    return open_dataset(store, training_set(store, timed(200, 1), timed(90, 2), timestamp="at", split=split))


def test_each_window_has_the_metric_of_its_rows(tmp_path):
    # The test rows are at the hours 0 to 89, in any order. The last window has no late flight.
    edges = [START + timedelta(hours=hours) for hours in (0, 40, 80, 90)]
    windows = [
        {"start": first.isoformat(), "end": last.isoformat(), "rows": 0}
        for first, last in zip(edges[:-1], edges[1:], strict=True)
    ]
    found = dataset(tmp_path, {"method": "time", "windows": windows})
    rows = found.table("test")
    hours = np.array([(time - START) / timedelta(hours=1) for time in rows["at"].to_pylist()])
    late = rows["late"].to_numpy() & (hours < 80)
    scores = [np.random.default_rng(seed).random(90) + late / 2 for seed in (1, 2)]
    first, champion = (
        Measurement(f"m v{number}", {"roc_auc": 0.5}, rows=Rows("binary", late, score > 1, score))
        for number, score in enumerate(scores, 2)
    )
    data = HeldOut(found, "test", "late", "binary", late)
    candidate = SimpleNamespace(ref=ModelVersionRef(model="m", version=2, run_id="r"))
    other = ModelVersionRef(model="m", version=1, run_id="r")
    baseline = Measurement("baseline", {})
    compared = Compared(data, [Measured(candidate, first)], baseline, None, other, champion, None, Resampling(90))
    measured = by_window(compared, "roc_auc")
    assert [item.rows for item in measured] == [40, 40, 10]
    for item, (low, high) in zip(measured[:2], ((0, 40), (40, 80)), strict=True):
        inside = (hours >= low) & (hours < high)
        value = item.candidates[2]
        assert value.value == pytest.approx(roc_auc_score(late[inside], scores[0][inside]))
        assert value.low < value.value < value.high
        assert item.champion.value == pytest.approx(roc_auc_score(late[inside], scores[1][inside]))
    # With one class, the metric is undefined.
    assert (measured[2].candidates, measured[2].champion) == ({}, None)
    assert HeldOutWindow.model_validate_json(measured[0].model_dump_json()) == measured[0]
    for without in (dataset(tmp_path, {"method": "time"}), dataset(tmp_path, None)):
        none = Compared(
            HeldOut(without, "test", "late", "binary", late), [], baseline, None, None, None, None, Resampling(90)
        )
        assert by_window(none, "roc_auc") == []


def test_the_folds_of_a_search_keep_the_gap_of_the_split(tmp_path):
    for gap in (None, {"duration": "0.416667D", "seconds": 10 * 3600, "rows": 3}):
        found = dataset(tmp_path, {"method": "time", **({"gap": gap} if gap else {})})
        data = read_part(found, "train")
        hours = np.array([(time - START) / timedelta(hours=1) for time in found.table("train")["at"].to_pylist()])
        for learned, held in make_folds(found, data, 4, seed=0):
            between = hours[held].min() - hours[learned].max()
            assert between == (11 if gap else 1)
    wide = dataset(tmp_path, {"method": "time", "gap": {"duration": "3D", "seconds": 3 * 86400, "rows": 3}})
    with pytest.raises(TrainingError, match="With the gap of 3D"):
        make_folds(wide, read_part(wide, "train"), 4, seed=0)
