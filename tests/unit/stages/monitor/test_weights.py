"""Realised performance that MonitorOperator measures with the weights of the rows, or says that it does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift import training_reference
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.performance.findings import Performance
from airflow_mlops.performance.levels import best_recent
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.profile import ModelProfile
from airflow_mlops.profiles.training import BIAS, POSITIVES, model_profile
from airflow_mlops.stages.monitor import clusters, performance, segments
from airflow_mlops.stages.monitor.changes import find_changes
from airflow_mlops.stages.monitor.check import Check
from tests.support.deployed import write

WINDOW = Window.model_validate("2013-04")


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


def rows(seed: int, count: int = 1_500, worse: str | None = None) -> pa.Table:
    """Predictions with labels and weights. Rows of a heavy carrier are difficult; for ``worse``, the scores are random."""
    random = np.random.default_rng(seed)
    carrier = random.choice(["AA", "EV", "UA"], count)
    signal = random.normal(size=count)
    noise = np.where(carrier == "EV", 2.0, 0.5) * random.normal(size=count)
    score = 1 / (1 + np.exp(-2 * signal))
    score = np.where(carrier == worse, random.random(count), score)
    late = random.random(count) < 1 / (1 + np.exp(-2 * (signal + noise)))
    weight = np.where(carrier == "EV", 10.0, 1.0) * random.lognormal(0, 0.3, count) * (random.random(count) < 0.9)
    return pa.table({
        "carrier": carrier, "score": score, "prediction": score >= 0.5, "label": late, "weight": weight,
    })  # fmt: skip


def weighted_auc(table: pa.Table) -> float:
    return float(roc_auc_score(*(table[name].to_numpy() for name in ("label", "score")), sample_weight=table["weight"]))


def auc(table: pa.Table) -> float:
    return float(roc_auc_score(table["label"].to_numpy(), table["score"].to_numpy()))


HELD_OUT = rows(0)
CONTRACT = ModelContract(
    task="binary", label="late", features=[FeatureColumn(name="carrier", kind="string")], classes=[False, True],
    positive=True, metrics={"roc_auc": weighted_auc(HELD_OUT), "log_loss": 0.5}, dataset_name="late_training",
    dataset_id="0" * 64, sample_weight="weight",
)  # fmt: skip


@pytest.fixture(scope="module")
def profile() -> ModelProfile:
    """The profile that TrainOperator stores with the model."""
    features = HELD_OUT.select(["carrier"])
    known = model_profile(
        features.to_batches, features.to_batches, CONTRACT, HELD_OUT["label"].to_numpy(),
        Predictions(HELD_OUT["prediction"].to_numpy(), HELD_OUT["score"].to_numpy(), None), {},
        HELD_OUT["weight"].to_numpy(),
    )  # fmt: skip
    return ModelProfile.model_validate_json(known.model_dump_json())


def reference(profile: ModelProfile, contract: ModelContract = CONTRACT) -> TrainingReference:
    return TrainingReference(ModelVersionRef(model="late", version=1, run_id="r"), contract, profile, [], [], {}, [])


def check(store, table: pa.Table, details: dict | None = None, **policy) -> Check:
    dataset = open_dataset(store, write(store, "late_outcomes", table, "2013-04", details))
    return Check("late", WINDOW, datetime(2013, 6, 1, tzinfo=timezone.utc), Policy(**policy), [dataset], store)


def with_weight(table: pa.Table, weight: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("weight"), "weight", weight)


def test_the_profile_has_the_performance_with_and_without_weights(profile):
    assert profile.intervals["roc_auc"].value == pytest.approx(auc(HELD_OUT))
    assert profile.weighted.intervals["roc_auc"].value == pytest.approx(weighted_auc(HELD_OUT))
    weight, error = HELD_OUT["weight"].to_numpy(), HELD_OUT["score"].to_numpy() - HELD_OUT["label"].to_numpy()
    assert profile.weighted.intervals[BIAS].value == pytest.approx(np.average(error, weights=weight))
    # The rate of positives counts predictions.
    assert POSITIVES in profile.intervals
    assert POSITIVES not in profile.weighted.intervals
    losses = profile.weighted.segments.losses["log_loss"]["carrier"]
    carrier, late = np.array(HELD_OUT["carrier"].to_pylist()), HELD_OUT["label"].to_numpy()
    score = HELD_OUT["score"].to_numpy()
    loss = -np.log(np.where(late, score, 1 - score))
    for number, name in enumerate(profile.weighted.segments.cuts["carrier"].values):
        own = (carrier == name) & (weight > 0)
        assert losses.rows[number] == own.sum()
        mean = np.average(loss[own], weights=weight[own])
        assert losses.mean[number] == pytest.approx(mean)
        variance = np.square(weight[own] * (loss[own] - mean)).sum() / weight[own].sum() ** 2
        of_mean = losses.variance[number] / losses.effective[number]
        assert of_mean == pytest.approx(variance * own.sum() / (own.sum() - 1))


def test_realised_performance_is_weighted_in_the_window_and_at_training(store, profile):
    window = rows(1)
    known = reference(profile)
    checked = check(store, window)
    realised = performance.realised(checked, known)
    found = realised.performance
    assert found.weight == "weight"
    assert found.value == pytest.approx(weighted_auc(window), abs=1e-12)
    assert found.reference == pytest.approx(weighted_auc(HELD_OUT))
    assert found.reference_low < found.reference < found.reference_high
    assert abs(found.value - auc(window)) > 0.02
    # Rows with the weight 0 have a label, but they are not measured.
    assert (realised.labelled, found.labels) == (1_500, int((window["weight"].to_numpy() > 0).sum()))
    weight, error = window["weight"].to_numpy(), window["score"].to_numpy() - window["label"].to_numpy()
    assert realised.bias.value == pytest.approx(np.average(error, weights=weight))
    assert realised.bias.reference == pytest.approx(profile.weighted.intervals[BIAS].value)
    (note,) = realised.notes
    assert note.startswith(
        "Realised performance is weighted by column 'weight' (sample_weight), in the window and at training."
    )
    estimated = performance.estimated(checked, known, realised)
    assert estimated.performance is None
    assert "estimates do not support row weights" in estimated.notes[0]
    # Without labels, the estimate is compared with training without weights.
    alone = performance.estimated(check(store, window.drop_columns("label")), known, performance.Realised())
    assert (alone.performance.weight, alone.performance.reference) == (None, profile.intervals["roc_auc"].value)


def test_the_scale_and_the_type_of_the_weights_do_not_matter(store, profile):
    window, known = rows(1), reference(profile)
    found = performance.realised(check(store, window), known).performance
    scaled = with_weight(window, pa.array(1e20 * window["weight"].to_numpy()))
    again = performance.realised(check(store, scaled), known).performance
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high))
    whole = np.random.default_rng(1).integers(0, 4, window.num_rows)
    repeated = window.take(pa.array(np.repeat(np.arange(window.num_rows), whole)))
    ones = with_weight(repeated, pa.array(np.ones(repeated.num_rows)))
    twice = performance.realised(check(store, with_weight(window, pa.array(whole))), known).performance
    assert twice.value == pytest.approx(performance.realised(check(store, ones), known).performance.value, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: [None, *weight[1:]], "null in 1 row (of 1,500)"),
        (lambda weight: [-1.0, *weight[1:]], "negative in 1 row (of 1,500)"),
        (lambda weight: [np.nan, np.inf, *weight[2:]], "NaN, infinite or beyond single precision (3.4e38) in 2 rows"),
        (lambda weight: [0.0 for _ in weight], "0 in all 1,500 rows"),
        (lambda weight: [str(each) for each in weight], "of the type string"),
    ],
)
def test_a_window_with_invalid_weights_is_not_measured(store, profile, change, said):
    window = rows(1)
    broken = with_weight(window, pa.array(change(window["weight"].to_pylist())))
    realised = performance.realised(check(store, broken), reference(profile))
    assert (realised.performance, realised.bias, realised.judged) == (None, None, None)
    assert realised.unmeasured.startswith(f"the weights in column 'weight' are {said}")
    assert (realised.labelled, realised.coverage, realised.immature) == (1_500, 1.0, None)
    assert "finite numbers of at least 0" in realised.notes[0]
    assert segments.compare(check(store, broken), reference(profile), realised).loss is None
    # The weight of a row without a label does not matter.
    labels = window["label"].to_pylist()
    if len({*broken["weight"].to_pylist()}) > 2 and not pa.types.is_string(broken.schema.field("weight").type):
        unlabelled = broken.set_column(3, "label", pa.array([None, None, *labels[2:]]))
        found = performance.realised(check(store, unlabelled), reference(profile)).performance
        assert found.value == pytest.approx(weighted_auc(window.slice(2)), abs=1e-12)


@pytest.mark.parametrize(
    ("table", "details", "why"),
    [
        (lambda window: window.drop_columns("weight"), None, "the predictions do not have this column"),
        (lambda window: window.drop_columns("weight"), {"dropped": ["weight"]}, "scoring dropped this column"),
        (
            lambda window: with_weight(window, pa.array(["f0"] * window.num_rows)),
            {"hashed": ["weight"], "hash_key_id": "k"},
            "scoring hashed this column",
        ),
        (
            lambda window: with_weight(window, pa.nulls(window.num_rows, pa.float64())),
            None,
            "the labelled predictions have no values in this column",
        ),
    ],
)
def test_a_window_without_weights_is_compared_without_weights(store, profile, table, details, why):
    window = rows(1)
    realised = performance.realised(check(store, table(window), details), reference(profile))
    found = realised.performance
    assert found.weight is None
    assert found.value == pytest.approx(auc(window), abs=1e-12)
    assert found.reference == pytest.approx(auc(HELD_OUT))
    (note,) = realised.notes
    assert note.startswith("Performance in production and at training is not weighted by column 'weight'")
    assert f"because {why}. " in note


def test_versions_without_stored_weighted_performance_and_models_without_weights_count_each_row_once(store, profile):
    window, early = rows(1), profile.model_copy(update={"weighted": None})
    realised = performance.realised(check(store, window), reference(early))
    assert (realised.performance.weight, realised.performance.reference) == (None, pytest.approx(auc(HELD_OUT)))
    assert "performance at training with weights is not stored with the version" in realised.notes[0]
    plain = CONTRACT.model_copy(update={"sample_weight": None})
    realised = performance.realised(check(store, window), reference(early, plain))
    assert (realised.performance.weight, realised.notes) == (None, [])


def test_segments_are_weighted(store, profile):
    known, window = reference(profile), rows(1, worse="EV")
    checked = check(store, window)
    found = segments.compare(checked, known, performance.realised(checked, known))
    assert found.segments[0].name == "carrier = EV"
    weight, carrier = window["weight"].to_numpy(), np.array(window["carrier"].to_pylist())
    assert found.segments[0].share == pytest.approx(weight[carrier == "EV"].sum() / weight.sum())
    assert found.segments[0].rows == ((carrier == "EV") & (weight > 0)).sum()
    assert found.loss.value == pytest.approx(1 - weighted_auc(window), abs=1e-6)
    assert found.loss.reference == pytest.approx(1 - weighted_auc(HELD_OUT), abs=1e-6)
    (shift,) = found.loss.shifts
    assert shift.mix + shift.rate == pytest.approx(found.loss.value - found.loss.reference)
    # Rows of one cluster are not independent: with one customer for each carrier, nothing can be tested.
    customers = window.append_column("customer", window["carrier"])
    with clusters.numbered(check(store, customers, groups="customer")) as clustered:
        realised = performance.realised(clustered, known)
        assert realised.performance.value == pytest.approx(weighted_auc(window), abs=1e-12)
        assert segments.compare(clustered, known, realised).segments == []


def test_a_feature_that_only_some_datasets_of_the_window_have_has_no_segments(store, profile):
    known, whole = reference(profile), check(store, rows(1, worse="EV"))
    other = write(store, "late_outcomes_2", rows(2).drop_columns("carrier"), "2013-04")
    both = replace(whole, datasets=[*whole.datasets, open_dataset(store, other)])
    realised = performance.realised(both, known)
    assert realised.judged is not None
    assert segments.compare(both, known, realised).segments == []


def test_unchanged_segments_are_rarely_worse(store, profile):
    known, alarms = reference(profile), 0
    for seed in range(100, 140):
        checked = check(store, rows(seed, 600), tolerance=0)
        alarms += bool(segments.compare(checked, known, performance.realised(checked, known)).segments)
    # 2 expected with the stated rate of 5%.
    assert alarms <= 6


def test_a_feature_that_scoring_dropped_has_no_weighted_segments(store, profile):
    dataset = check(store, rows(1).drop_columns("carrier"), {"dropped": ["carrier"]}).datasets
    stored = VersionContract(contract=CONTRACT, profile=profile.model_dump(mode="json"))
    version = ModelVersionRef(model="late", version=1, run_id="r")
    known = training_reference.load(version, stored, dataset, store).profile
    assert known.segments.cuts == known.weighted.segments.cuts == {}
    assert known.weighted.intervals == profile.weighted.intervals


def judged(value: float, month: int, weight: str | None) -> Findings:
    window = Window.model_validate(f"2013-{month:02d}")
    version = ModelVersionRef(model="late", version=1, run_id="r")
    found = Performance(metric="roc_auc", value=value, low=value - 0.01, high=value + 0.01, labels=1_000, weight=weight)
    return Findings(
        model="late", window=window, created=window.end + timedelta(days=1), policy=Policy(), champion=version,
        scored_by=version, rows=1_000, labelled=1_000, coverage=1.0, performance=found,
    )  # fmt: skip


def test_windows_with_and_without_weights_are_not_one_series():
    without = [judged(0.8, month, None) for month in range(1, 7)]
    mixed = [*without, *(judged(0.7, month, "weight") for month in range(7, 12))]
    assert find_changes(mixed, 0.05) == []
    same = [*without, *(judged(0.7, month, None) for month in range(7, 12))]
    assert [item.window.label for item in find_changes(same, 0.05)] == ["2013-07"]
    current = mixed[-1].performance
    assert best_recent(current, {1: [item.performance for item in without]}, 0.95) is None
    assert best_recent(current, {1: [item.performance for item in mixed[6:10]]}, 0.95).windows == 4
