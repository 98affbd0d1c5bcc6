"""Segments whose rows are read in parts: the same losses as with all rows in memory."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.windows import Window
from airflow_mlops.data import spool
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.realised import losses as losses_of_rows
from airflow_mlops.metrics.realised import measurable
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.segments import Cut, measured, tally
from airflow_mlops.stages.monitor import labelled, segments
from airflow_mlops.stages.monitor import weights as row_weights
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.performance import Realised
from airflow_mlops.stages.monitor.weights import Weights
from tests.support.deployed import write

CONTRACT = ModelContract(
    task="binary", label="late", features=[FeatureColumn(name="x0", kind="number")], classes=[False, True], positive=True,
    dataset_name="d", dataset_id="0", sample_weight="weight",
)  # fmt: skip
# More features than a column of packed codes holds.
NUMBERS = [f"x{number}" for number in range(9)]
CUTS = {**{name: Cut(edges=[-1.0, 0.0, 0.5]) for name in NUMBERS}, "carrier": Cut(values=["AA", "EV"])}


@pytest.fixture(scope="module")
def check(tmp_path_factory) -> Check:
    store = ArtifactStore(f"file://{tmp_path_factory.mktemp('segments')}/store")
    random, rows = np.random.default_rng(0), 600
    score = np.round(random.random(rows), 2)
    late = random.random(rows) < score
    table = pa.table({
        **{name: pa.array(random.normal(size=rows), mask=random.random(rows) < 0.1) for name in NUMBERS},
        "carrier": random.choice(["AA", "EV", "UA"], rows),
        # This feature was a number at training.
        "kind": random.choice(["a", "b"], rows),
        "score": np.where(random.random(rows) < 0.02, np.nan, score), "prediction": score >= 0.5,
        "label": pa.array(late, mask=random.random(rows) < 0.1), "weight": np.floor(random.exponential(2, rows)),
    })  # fmt: skip
    dataset = open_dataset(store, write(store, "late_outcomes", table, "2013-04"))
    window, created = Window.model_validate("2013-04"), datetime(2013, 6, 1, tzinfo=timezone.utc)
    return Check("late", window, created, Policy(), [dataset], store)


@pytest.mark.parametrize("weight", [None, "weight"])
@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_parts_give_the_losses_of_all_rows(check, monkeypatch, metric, weight):
    monkeypatch.setattr(spool, "BATCH_ROWS", 50)
    cuts = {**CUTS, "kind": Cut(edges=[0.0])}
    arguments = check, CONTRACT, metric, Realised(weights=Weights(weight)), cuts
    weights, columns = Weights(weight), [*cuts, "label", "score"]
    known = labelled.in_memory(check, CONTRACT, metric, weights, []).outcomes
    mask = None if weight is None else row_weights.values_of(check, CONTRACT, weight) > 0
    rows = measured(measurable(check.batches(columns), CONTRACT), mask)
    whole = tally(cuts, rows, {metric: losses_of_rows(metric, known)}, known.weight)[metric]
    parts, _ = segments._in_parts(*arguments)
    assert list(parts) == list(whole) == list(CUTS)
    for name, losses in whole.items():
        assert parts[name].rows == losses.rows
        for field in ("mean", "variance", "weight", "effective"):
            assert getattr(parts[name], field) == pytest.approx(getattr(losses, field), rel=1e-9, abs=1e-12)
