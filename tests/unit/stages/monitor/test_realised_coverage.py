"""The coverage of prediction intervals in production: measured with labels, compared with training, and judged."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import PredictionInterval
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics.intervals import proportion
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.metrics.values import measure
from airflow_mlops.models.conformal import margin
from airflow_mlops.observability.samples import monitored
from airflow_mlops.operators import MonitorOperator
from airflow_mlops.policy.checks import lost_coverage
from airflow_mlops.policy.findings import Findings, Report
from airflow_mlops.policy.retraining import plan, triggers
from airflow_mlops.policy.verdict import decide
from airflow_mlops.profiles.training import model_profile
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor.champion import ChampionFacts
from airflow_mlops.stages.monitor.findings import Measurements, compose
from airflow_mlops.stages.monitor.page.report import render
from airflow_mlops.stages.monitor.performance import realised
from airflow_mlops.stages.monitor.report import metrics, result
from tests.unit.stages.monitor.test_estimated_performance import CONTRACT, check

V1 = ModelVersionRef(model="delays", version=1, run_id="r")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ArtifactStore(tmp_path_factory.mktemp("store").as_uri())


def rows(seed: int, noise: float = 1.0, count: int = 1_000) -> pa.Table:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(2, count))
    label = a + noise * random.normal(size=count)
    customer = np.arange(count) // 4
    return pa.table({"a": a, "b": b, "score": a, "prediction": a, "label": label, "customer": customer})


@pytest.fixture(scope="module")
def reference() -> TrainingReference:
    aside, held_out = rows(1), rows(2)
    found = margin(aside["label"].to_numpy(), aside["score"].to_numpy(), 0.9)
    contract = CONTRACT.model_copy(update={"interval": PredictionInterval(coverage=0.9, margin=found, rows=1_000)})
    score, truth = held_out["score"].to_numpy(), held_out["label"].to_numpy()
    predictions = Predictions(score, score, None)
    contract = contract.model_copy(update={"metrics": measure(predicted(truth, predictions, contract))})
    profile = model_profile(held_out.to_batches, held_out.to_batches, contract, truth, predictions, {})
    return TrainingReference(V1, contract, profile, [], [], {}, [])


def found(store, reference, table, **policy) -> Findings:
    with clusters.numbered(check(store, table, **policy)) as checked:
        measured = Measurements(scored_by=V1, realised=realised(checked, reference))
        return compose(checked, ChampionFacts(champion=V1), measured)


def test_coverage_is_measured_beside_the_metric_and_compared_with_the_held_out_rows(store, reference):
    table, contract = rows(3), reference.contract
    findings = found(store, reference, table)
    interval, inside = findings.interval, np.abs(table["label"].to_numpy() - table["score"].to_numpy())
    covered = float((inside <= contract.interval.margin).mean())
    expected = proportion(covered, 1_000, 1.959964)
    assert (interval.value, interval.nominal, interval.labels) == (covered, 0.9, 1_000)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    known = reference.profile.intervals["interval_coverage"]
    assert interval.reference == contract.metrics["interval_coverage"] == known.value
    assert (interval.reference_low, interval.reference_high) == pytest.approx((known.low, known.high))
    assert findings.performance.metric == "rmse"
    assert decide(findings).decision == "healthy"
    # Rows of one customer are not independent.
    clustered = found(store, reference, table, groups="customer").interval
    assert clustered.value == covered
    assert clustered.high - clustered.low != interval.high - interval.low


def test_larger_noise_is_flagged_and_requests_retraining(store, reference):
    # A tolerance of the error under which only the coverage is worse.
    policy = {"max": 100.0, "tolerance": 0.02}
    noisy = rows(4, noise=1.25)
    findings = found(store, reference, noisy, **policy)
    findings = findings.model_copy(
        update={"performance": findings.performance.model_copy(update={"reference": findings.performance.value})}
    )
    assert findings.interval.value < 0.85
    (reason,) = triggers(findings).values()
    assert triggers(findings).keys() == {"performance"}
    assert reason.startswith("Interval coverage fell to 0.8")
    verdict = decide(findings, plan(findings))
    assert verdict.decision == "retrain"
    assert verdict.headline == reason
    assert "Realised interval coverage: 0.8" in verdict.details[0]
    assert verdict.details[0].endswith(". The intervals were built for a coverage of 90.00%.")
    # `max` of the policy limits the error, not the coverage.
    assert lost_coverage(found(store, reference, rows(3), max=0.5)) is None

    ignored = found(store, reference, noisy, retrain_on=[])
    watched = decide(ignored)
    assert watched.decision == "watch"
    assert any("Realised interval coverage" in detail for detail in watched.details)
    replaced = findings.model_copy(update={"champion": ModelVersionRef(model="delays", version=2, run_id="s")})
    assert "performance" not in triggers(replaced)
    assert not any("interval coverage" in detail for detail in decide(replaced).details)
    # The coverage causes the alarm, not the noise: with wider intervals, there is no alarm.
    wide = reference.contract.interval.model_copy(update={"margin": 3.0})
    contract = reference.contract.model_copy(update={"interval": wide})
    other = TrainingReference(V1, contract, reference.profile, [], [], {}, [])
    assert realised(check(store, noisy), other).interval.value > 0.97


def test_windows_like_training_are_rarely_flagged(store, reference):
    """The nominal rate of windows that are worse by more than the tolerance, by chance, is far below 2.5%."""
    for seed in range(10, 18):
        assert "performance" not in triggers(found(store, reference, rows(seed), tolerance=0.0, confidence=0.99))


def test_the_report_and_the_exported_metrics_show_the_coverage(store, reference):
    findings = found(store, reference, rows(4, noise=1.25))
    report = Report(**dict(findings), verdict=decide(findings))
    assert Report.model_validate_json(report.model_dump_json()).interval == findings.interval
    page = render(report, [])
    assert "Interval coverage" in page
    assert "labels in their prediction interval, set to 90%" in page
    assert "significantly lower than at training" in page
    numbers = metrics(findings)
    names = ["interval_coverage", "interval_coverage_low", "interval_coverage_high", "interval_coverage_reference"]
    interval = findings.interval
    assert [numbers[name] for name in names] == [interval.value, interval.low, interval.high, interval.reference]
    samples = monitored(result(report, "u", store).model_dump(mode="json"))
    (value,) = [
        sample.value
        for sample in samples
        if sample.metric.name == "mlops.monitor.performance" and sample.labels["metric"] == "interval_coverage"
    ]
    assert value == interval.value


def test_a_model_without_intervals_or_labels_has_no_coverage(store, reference):
    contract = reference.contract.model_copy(update={"interval": None})
    without = TrainingReference(V1, contract, reference.profile, [], [], {}, [])
    findings = found(store, without, rows(3))
    assert findings.interval is None
    assert "Interval coverage" not in render(Report(**dict(findings), verdict=decide(findings)), [])
    assert found(store, reference, rows(3).drop_columns(["label"])).interval is None
    # An old report has no such field.
    assert Findings.model_validate(findings.model_dump(mode="json", exclude={"interval"})).interval is None


def test_without_a_value_at_training_the_nominal_coverage_is_the_standard(store, reference):
    contract = reference.contract.model_copy(update={"metrics": {"rmse": 1.0}})
    bare = TrainingReference(V1, contract, reference.profile, [], [], {}, [])
    interval = realised(check(store, rows(3)), bare).interval
    assert (interval.reference, interval.reference_low) == (0.9, None)


def test_coverage_is_not_the_metric_of_a_policy():
    with pytest.raises(SpecError, match="the coverage of prediction intervals is judged in addition to the metric"):
        MonitorOperator(task_id="monitor", model="m", dataset=None, policy={"metric": "interval_coverage"})
