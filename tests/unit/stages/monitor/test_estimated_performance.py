"""Performance that MonitorOperator estimates from predictions in the artifact store, without labels."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import mean_poisson_deviance

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.training import model_profile
from airflow_mlops.stages.monitor import clusters, performance, segments
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.performance import Realised
from tests.support.deployed import write

NAMES = ["a", "b"]


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


CONTRACT = ModelContract(
    task="regression",
    label="delay",
    features=[FeatureColumn(name=name, kind="number") for name in NAMES],
    metrics={"rmse": 1.0},
    dataset_name="delays_training",
    dataset_id="0" * 64,
)


def rows(seed: int, count: int = 3_000, shift: float = 0.0) -> pa.Table:
    """Predictions and labels. The noise of the labels depends on the feature ``b``."""
    random = np.random.default_rng(seed)
    a, b = random.normal(size=count), random.normal(shift, 1, count)
    return pa.table(
        {"a": a, "b": b, "score": a, "prediction": a, "label": a + random.normal(size=count) * np.exp(b / 2)}
    )


def reference() -> TrainingReference:
    """The training reference of a model, with the profile that TrainOperator computes."""
    held_out = rows(0)
    score = held_out["score"].to_numpy()
    profile = model_profile(
        held_out.to_batches,
        held_out.to_batches,
        CONTRACT,
        held_out["label"].to_numpy(),
        Predictions(score, score, None),
        {},
    )
    return TrainingReference(ModelVersionRef(model="delays", version=1, run_id="r"), CONTRACT, profile, [], [], {}, [])


def check(store, table: pa.Table, **policy) -> Check:
    dataset = open_dataset(store, write(store, "delays_predictions", table, "2013-04"))
    window = Window.model_validate("2013-04")
    return Check("delays", window, datetime(2013, 6, 1, tzinfo=timezone.utc), Policy(**policy), [dataset], store)


def rmse(table: pa.Table) -> float:
    return float(np.sqrt(np.square(table["label"].to_numpy() - table["score"].to_numpy()).mean()))


def test_the_estimate_of_a_regression_knows_that_inputs_moved_at_equal_predictions(store):
    window = rows(1, shift=1.0)
    found = performance.estimated(check(store, window.drop_columns("label")), reference(), Realised()).performance
    assert found.low < rmse(window) < found.high
    assert found.value > 1.2 * rmse(rows(1))
    # Without the features, the prediction alone decides.
    alone = performance.estimated(check(store, window.select(["score"])), reference(), Realised()).performance
    assert alone.high < rmse(window)


def test_rows_without_a_finite_score_or_without_a_label_do_not_count(store):
    known, moved = rows(1), rows(2, shift=3.0)
    odd = moved.set_column(2, "score", pa.nulls(moved.num_rows, pa.float64()))
    found = performance.estimated(check(store, pa.concat_tables([known, odd])), reference(), Realised()).performance
    alone = performance.estimated(check(store, known), reference(), Realised()).performance
    assert (found.value, found.high) == pytest.approx((alone.value, alone.high))
    unlabelled = moved.set_column(4, "label", pa.nulls(moved.num_rows, pa.float64()))
    both = check(store, pa.concat_tables([known, unlabelled]))
    realised = performance.realised(both, reference())
    found = performance.estimated(both, reference(), realised).performance
    assert (found.value, found.high) == pytest.approx((alone.value, alone.high))


def test_a_model_with_weights_of_rows_is_compared_with_its_performance_without_them(store):
    known = reference()
    # The metric in the contract is weighted.
    contract = CONTRACT.model_copy(update={"sample_weight": "weight", "metrics": {"rmse": 0.5}})
    weighted = replace(known, contract=contract)
    window = rows(1)
    realised = performance.realised(check(store, window), weighted)
    assert realised.performance.value == pytest.approx(rmse(window))
    assert realised.performance.reference == pytest.approx(rmse(rows(0)))
    assert realised.performance.reference_low < rmse(rows(0)) < realised.performance.reference_high
    (note,) = [note for note in realised.notes if "'weight'" in note]
    assert note.startswith("Performance in production and at training is not weighted by column 'weight'")
    assert "because the predictions do not have this column. " in note
    estimated = performance.estimated(check(store, window.drop_columns("label")), weighted, Realised())
    assert estimated.performance.reference == realised.performance.reference
    (note,) = estimated.notes
    assert note.startswith("Estimated performance counts each row once")
    assert "'weight'" in note
    assert not any("weight" in note for note in performance.realised(check(store, window), known).notes)
    assert performance.realised(check(store, window), known).performance.reference == 1.0


def counts(seed: int, rate: float = 1.0) -> pa.Table:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=3_000), random.normal(size=3_000)
    value = np.exp(a / 2 + 1)
    return pa.table({"a": a, "b": b, "score": value, "prediction": value, "label": random.poisson(rate * value)})


def test_a_deviance_is_measured_with_labels_and_not_estimated(store):
    held_out, metric = counts(0), "poisson_deviance"

    def deviance(table: pa.Table) -> float:
        return mean_poisson_deviance(table["label"].to_numpy(), table["score"].to_numpy())

    contract = CONTRACT.model_copy(update={"metrics": {"rmse": 1.0, metric: deviance(held_out)}})
    score = held_out["score"].to_numpy()
    predictions = Predictions(score, score, None)
    profile = model_profile(
        held_out.to_batches, held_out.to_batches, contract, held_out["label"].to_numpy(), predictions, {}
    )
    known = replace(reference(), contract=contract, profile=profile)
    window = check(store, more := counts(1, rate=2.0), metric=metric)
    found = performance.realised(window, known)
    assert found.performance.value == pytest.approx(deviance(more), rel=1e-12)
    assert found.performance.low < deviance(more) < found.performance.high
    assert found.performance.reference_low < found.performance.reference == deviance(held_out)
    assert found.performance.reference_high < found.performance.low
    # The losses at training are stored, and those of the window are compared with them by segment.
    assert segments.compare(window, known, found).loss.metric == metric
    assert {"rmse", metric} <= known.profile.segments.losses.keys()
    estimated = performance.estimated(window, known, found)
    assert estimated.performance is None
    assert estimated.notes == [
        f"Performance was not estimated from the scores, because {metric} needs labels; rmse, mae can be estimated from the scores."
    ]
    # A model whose predictions are not above 0 has no performance.
    wrong = more.set_column(2, "score", pa.array(np.where(np.arange(3_000) < 2, -0.5, score)))
    found = performance.realised(check(store, wrong, metric=metric), known)
    assert found.judged is None
    assert found.unmeasured == "2 of 3,000 predictions are not above 0 (-0.5 in row 1, -0.5 in row 2)"


def test_a_model_of_counts_has_an_estimate_of_rmse_until_labels_arrive(store):
    trained = reference()
    measured = {"rmse": 1.0, "poisson_deviance": 0.2}
    update = {"metrics": measured, "judged_by": "poisson_deviance"}
    of_counts = replace(trained, contract=CONTRACT.model_copy(update=update))
    window = check(store, rows(1))
    found = performance.estimated(window, of_counts, Realised()).performance
    assert (found.metric, found.value) == ("rmse", performance.estimated(window, trained, Realised()).performance.value)
    # The metric of the policy can only be measured with labels.
    named = performance.estimated(check(store, rows(1), metric="poisson_deviance"), of_counts, Realised())
    assert named.performance is None
    judged = replace(trained, contract=CONTRACT.model_copy(update={**update, "judged_by": "ndcg_k10_by-query"}))
    assert performance.estimated(window, judged, Realised()).performance is None


def copies(table: pa.Table, times: int) -> pa.Table:
    """Repeat each row, with the customer that all copies belong to."""
    named = table.append_column("customer", pa.array(np.arange(table.num_rows)))
    return pa.concat_tables([named] * times)


@pytest.mark.parametrize("labels", [True, False])
def test_copies_of_the_rows_of_a_customer_make_no_estimate_more_certain(store, labels):
    once = rows(1, 200)
    every = copies(once, 16) if labels else copies(once, 16).drop_columns("label")
    policy = {"min_rows": 1, "min_labels": 1}

    def width(table: pa.Table, **more) -> float:
        with clusters.numbered(check(store, table, **policy, **more)) as window:
            realised = performance.realised(window, reference()) if labels else Realised()
            found = performance.estimated(window, reference(), realised).performance
        assert found.low < found.value < found.high
        return found.high - found.low

    alone = width(every)
    # 16 copies carry the information of one row. The interval uses Student's t quantile.
    assert width(every, groups="customer") / alone == pytest.approx(4, rel=0.05 if not labels else 0.1)


def test_a_window_of_one_customer_has_no_estimate_and_a_note(store):
    window = rows(1, 200).append_column("customer", pa.array(["only"] * 200))
    with clusters.numbered(check(store, window, min_rows=1, groups="customer")) as checked:
        found = performance.estimated(checked, reference(), Realised())
    assert found.performance is None
    assert len(found.notes) == 1


def test_a_model_of_a_quantile_has_neither_a_bias_nor_a_hint_to_rmse(store):
    measured = {"rmse": 1.0, "pinball_a0.9": 0.2}
    trained = reference()
    quantile = replace(trained, contract=CONTRACT.model_copy(update={"metrics": measured}))
    table = rows(1)
    table = table.set_column(2, "score", pa.array(table["score"].to_numpy() + 2))
    assert performance.realised(check(store, table), trained).bias.significant
    found = performance.realised(check(store, table), quantile)
    assert (found.performance.metric, found.bias) == ("pinball_a0.9", None)
    covered = (table["label"].to_numpy() <= table["score"].to_numpy()).mean()
    (note,) = (note for note in found.notes if "quantile" in note)
    assert f"{covered:.1%}" in note
    assert "0.9" in note
    (note,) = performance.estimated(check(store, table), quantile, Realised()).notes
    assert "pinball_a0.9 needs labels" in note
    assert "rmse" not in note
