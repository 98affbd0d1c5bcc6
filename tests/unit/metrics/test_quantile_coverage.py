"""Coverage gaps of quantiles: values, intervals, what is combined before the distance, and what they must not decide."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.gates.rules import parse_gates
from airflow_mlops.metrics.catalog import check_chooses, find_metric, is_mean_of_rows, is_quantile
from airflow_mlops.metrics.declarations import metric_name
from airflow_mlops.metrics.formulas import influence
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.judged import default_metric
from airflow_mlops.metrics.realised import Outcomes, clustered, losses, measure, widened
from airflow_mlops.metrics.realised.measurement import stretched
from airflow_mlops.metrics.rows import Rows
from airflow_mlops.metrics.values import baseline, measure_one
from airflow_mlops.metrics.values import measure as measure_all
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.standards import standards
from airflow_mlops.profiles import segments
from airflow_mlops.profiles.profile import ModelProfile, Profile
from airflow_mlops.stages.canary.spec import CanarySpec
from airflow_mlops.stages.canary.step import _metric as canary_metric
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.monitor import clusters, performance
from airflow_mlops.stages.monitor.challengers import metric_of
from airflow_mlops.stages.monitor.check import Check
from tests.support.deployed import write

NAME, DECLARED = "quantile_coverage_gap_a0.9", {"metric": "quantile_coverage_gap", "alpha": 0.9}
TRUTH = np.arange(1.0, 11.0)
CONTRACT = ModelContract(
    task="regression", label="y", features=[], dataset_name="d", dataset_id="0",
    metrics={"rmse": 1.0, "pinball_a0.9": 0.2, NAME: 0.01},
)  # fmt: skip


def constant(value: float, truth: np.ndarray = TRUTH) -> Rows:
    score = np.full(len(truth), value)
    return Rows("regression", truth, score, score)


def known(covered: int, of: int, repeated: int = 1) -> Outcomes:
    """Labelled predictions, of which ``covered`` have a label at the predicted quantile, and the others one above it."""
    truth = np.repeat(np.where(np.arange(of) < covered, 0.0, 1.0), repeated)
    groups = np.repeat(np.arange(of), repeated) if repeated > 1 else None
    return Outcomes(truth, np.zeros(of * repeated), np.zeros(of * repeated, dtype=bool), groups=groups)


def test_a_declaration_names_the_quantile():
    assert metric_name(DECLARED) == NAME
    assert Policy(**DECLARED, max=0.03).metric == NAME
    found = find_metric(NAME)
    assert (found.tasks, found.higher_is_better) == (("regression",), False)
    assert not is_quantile(NAME)
    with pytest.raises(ValueError, match="no quantile"):
        find_metric("quantile_coverage_gap")
    with pytest.raises(ValueError, match="the alpha of quantile_coverage_gap must be"):
        metric_name({"metric": "quantile_coverage_gap", "alpha": 1})
    with pytest.raises(ValueError, match="set `max"):
        Policy(metric=NAME, min=0.5)


def test_values_by_hand():
    # Eight of ten labels are at most 8, the label 8 included.
    assert measure_one(NAME, constant(8)) == pytest.approx(0.1)
    assert measure_one("quantile_coverage_gap_a0.2", constant(8)) == pytest.approx(0.6)
    assert measure_all(constant(9), [NAME])[NAME] == 0
    # A coverage above alpha and a coverage below alpha both have a gap.
    assert measure_one(NAME, constant(10)) == pytest.approx(0.1)
    weight = np.where(TRUTH <= 8, 1.0, 6.0)
    assert measure_one(NAME, constant(8).weighted(weight)) == pytest.approx(0.9 - 8 / 20)
    value, by_row = influence(NAME, constant(8))
    assert value == pytest.approx(0.1)
    assert by_row * 10 == pytest.approx(np.where(TRUTH <= 8, -0.2, 0.8), abs=1e-6)
    # The baseline is the quantile of the labels.
    assert baseline("regression", TRUTH, [], own=[NAME])[NAME] == 0


def test_labels_at_a_quantile_in_single_precision_are_covered():
    truth = np.array([0.1, 0.7, 0.7, 0.7, 1.4])
    score = np.full(5, 0.7, np.float32).astype(np.float64)
    assert score[0] < 0.7
    assert measure_one("quantile_coverage_gap_a0.8", Rows("regression", truth, score, score)) == pytest.approx(0)


def test_an_interval_of_lower_confidence_contains_0_if_it_may():
    interval = measure(NAME, known(910, 1000), 0.95, "regression")
    assert interval.low == 0
    narrow, exact = stretched(NAME, interval, 1.036 / 1.96), measure(NAME, known(910, 1000), 0.7, "regression")
    assert narrow.low <= exact.low
    assert narrow.high == pytest.approx(exact.high, rel=0.05)


def test_rows_of_windows_are_counted_before_the_distance_is_taken():
    low, high = constant(8), constant(10)
    assert [measure_one(NAME, rows) for rows in (low, high)] == pytest.approx([0.1, 0.1])
    score = np.concatenate([low.predicted, high.predicted])
    assert measure_one(NAME, Rows("regression", np.tile(TRUTH, 2), score, score)) == pytest.approx(0)
    assert not is_mean_of_rows(NAME)


# Wilson's 95% interval of 8 of 10 is 0.490 to 0.943.
@pytest.mark.parametrize(
    ("alpha", "value", "low", "high"), [(0.9, 0.1, 0, 0.410), (0.2, 0.6, 0.290, 0.743), (0.97, 0.17, 0.027, 0.480)]
)
def test_the_interval_has_the_distances_of_the_interval_of_the_share(alpha, value, low, high):
    found = measure(f"quantile_coverage_gap_a{alpha}", known(8, 10), 0.95, "regression")
    assert (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=0.001)
    weighted = known(8, 10).weighted(np.full(10, 7.0))
    assert measure(f"quantile_coverage_gap_a{alpha}", weighted, 0.95, "regression") == found


@pytest.mark.parametrize("covered", [20, 51, 54, 57])
def test_clusters_widen_the_interval_as_that_of_the_share(covered):
    outcomes, single = known(covered, 60, repeated=5), known(covered, 60)
    assert losses(NAME, outcomes).mean() == pytest.approx(abs(covered / 60 - 0.9))
    found, alone = (measure(NAME, item, 0.95, "regression") for item in (outcomes, single))
    assert found.high > measure(NAME, replace(outcomes, groups=None), 0.95, "regression").high
    # Repeated rows contain no further information. The allowance for few clusters makes the interval a little wider.
    assert found.high == pytest.approx(alone.high, rel=0.3)
    assert found.low <= alone.low + 0.01


@pytest.mark.parametrize("share", [0.80, 0.89, 0.905, 0.97])
@pytest.mark.parametrize(("below", "above"), [(0.03, 0.02), (0.1, 0.03), (0.01, 0.02)])
def test_a_widened_interval_contains_the_distances_of_the_widened_share(share, below, above):
    def gap(low: float, high: float) -> Interval:
        ends = abs(low - 0.9), abs(high - 0.9)
        return Interval(abs(share - 0.9), 0.0 if low <= 0.9 <= high else min(ends), max(ends))

    found = widened(NAME, gap(share - below, share + above), SimpleNamespace(factor=lambda z: 2.0), 0.95)
    expected = gap(share - 2 * below, share + 2 * above)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert expected.high - 1e-9 <= found.high <= expected.high + 2 * expected.value + 1e-9


def test_a_gap_chooses_no_model():
    with pytest.raises(ValueError, match="cannot select the best model"):
        check_chooses(NAME)
    candidate = ModelVersionRef(model="m", version=1, run_id="r")
    with pytest.raises(ValueError, match="cannot select the best model"):
        EvaluateSpec(candidates=[candidate], metric=DECLARED)
    trainer = {"kind": "lightgbm", "params": {"objective": "quantile"}}
    space = {"learning_rate": {"kind": "float", "low": 0.1, "high": 1.0}}
    with pytest.raises(ValueError, match="cannot select the best model"):
        SearchTrainerSpec.model_validate({"trainer": trainer, "space": space, "trials": 1, "metric": NAME})
    with pytest.raises(SpecError, match="set `max"):
        parse_gates([{**DECLARED, "better_than_baseline_by": 0}])
    with pytest.raises(SpecError, match="cannot be compared"):
        canary_metric(CanarySpec(model="m", version=1, metric=NAME), CONTRACT, CONTRACT)
    assert metric_of(Policy(metric=NAME), CONTRACT) == "pinball_a0.9"
    assert default_metric(CONTRACT) == "pinball_a0.9"
    assert default_metric(CONTRACT.model_copy(update={"metrics": {"rmse": 1.0, NAME: 0.1}})) == "rmse"
    # The distances of segments may have different signs.
    assert {*segments.held_out({}, CONTRACT, [], known(8, 10)).losses} == {"rmse", "pinball_a0.9"}


def monitored(
    tmp_path, at_training: Interval, policy: Policy, *parts: tuple[int, int], repeated: int = 1
) -> Performance:
    """The realised performance of a window of several datasets, each given by its covered rows and its rows."""
    store = ArtifactStore(f"file://{tmp_path}/store")

    def part(name: str, covered: int, of: int):
        label = np.repeat(np.where(np.arange(of) < covered, 0.0, 1.0), repeated)
        zeros, flight = np.zeros(of * repeated), np.arange(of).repeat(repeated)
        rows = pa.table({"label": label, "score": zeros, "prediction": zeros, "flight": flight})
        return open_dataset(store, write(store, name, rows, "2013-04"))

    datasets = [part(f"part_{number}", *item) for number, item in enumerate(parts)]
    empty = Profile(rows=0, columns={})
    profile = ModelProfile(features=empty, scores=empty, intervals={NAME: at_training})
    contract = CONTRACT.model_copy(update={"metrics": {**CONTRACT.metrics, NAME: at_training.value}})
    reference = TrainingReference(
        ModelVersionRef(model="m", version=1, run_id="r"), contract, profile, [], [], {}, datasets
    )
    created = datetime(2013, 6, 1, tzinfo=timezone.utc)
    check = Check("m", Window.model_validate("2013-04"), created, policy, datasets, store)
    with clusters.numbered(check) as checked:
        found = performance.realised(checked, reference).judged
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("covered", "broken"), [(890, []), (840, ["bound", "training"]), (960, ["bound", "training"]), (865, ["bound"])]
)
def test_monitoring_holds_the_share_of_all_datasets_to_the_quantile(tmp_path, covered, broken):
    policy = Policy(metric=NAME, max=0.02)
    # All labels of the first dataset are covered: its gap alone is 0.1.
    parts = (5_000, 5_000), (covered * 10 - 5_000, 5_000)
    found = monitored(tmp_path, Interval(0.01, 0.0, 0.02), policy, *parts)
    assert found.value == pytest.approx(abs(covered / 1_000 - 0.9))
    assert found.low < found.value < found.high
    assert [item.kind for item in standards(found, policy) if item.broken] == broken
    # The tolerance of 0.02 is a difference: a share of the gap at training would be almost 0.
    (training,) = [item for item in standards(found, policy) if item.kind == "training"]
    assert training.limit == pytest.approx(0.03)


def test_clusters_widen_the_interval_at_training_on_both_sides_of_the_quantile(tmp_path):
    # At training, 90.5% were covered. The end of the interval that is further from 90% may be the lower one, 86.66%.
    trained = Interval(0.005, 0.0, 0.0334)
    found = monitored(tmp_path, trained, Policy(metric=NAME, groups="flight"), (900, 1_000), repeated=4)
    # Groups of four equal rows double the standard errors.
    assert found.reference_high == pytest.approx(2 * (0.005 + 0.0334) - 0.005, rel=0.01)
    assert found.reference_low == 0


def test_the_design_of_clusters_is_that_of_the_covered_rows():
    found = clustered(NAME, known(50, 60, repeated=5))
    assert found is not None
    assert found.effect == pytest.approx(5, rel=0.05)
