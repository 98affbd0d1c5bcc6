"""Edge cases of monitoring, with a model that TrainOperator's step trained: broken windows, windows that arrive late or out of
order, and checks that are repeated or killed.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from html import unescape

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.operators import MonitorOperator
from airflow_mlops.policy import archive
from airflow_mlops.policy.findings import Report
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.model_health import step as health
from airflow_mlops.stages.model_health.spec import ModelHealthSpec
from airflow_mlops.stages.monitor import report as monitor_report
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.profile import step as profile
from airflow_mlops.stages.profile.spec import ProfileSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.support.deployed import write
from tests.support.killing import Killed
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

FEATURES = ["distance", "wind", "gust", "carrier"]
DETAILS = {"keys": ["flight"], "timestamp": "time_hour", "features": FEATURES}


def flights(rows: int = 1_000, seed: int = 0, window: str = "2013-04", together: float = 0.9, noise: float = 1.0):
    """Flights of a month. Longer flights are later, and wind and gust are correlated."""
    random, month = np.random.default_rng(seed), Window.model_validate(window)
    distance, wind = random.normal(size=(2, rows))
    gust = together * wind + np.sqrt(1 - together**2) * random.normal(size=rows)
    since = random.random(rows) * (month.end - month.start).total_seconds()
    return pa.table(
        {
            "flight": np.arange(rows),
            "time_hour": pa.array([month.start + timedelta(seconds=item) for item in since], pa.timestamp("us", "UTC")),
            "distance": distance,
            "wind": wind,
            "gust": gust,
            "carrier": random.choice(["AA", "B6", "UA"], rows, p=[0.6, 0.3, 0.1]),
            "late": 2 * distance + noise * random.logistic(size=rows) > 0.5,
        }
    )


def replaced(data: pa.Table, **columns) -> pa.Table:
    for name, values in columns.items():
        data = data.set_column(data.schema.get_field_index(name), name, pa.array(values))
    return data


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, tuple[str, str]]:
    """The store and the model, once they exist."""
    return {}


@pytest.fixture
def deployed(client, made, tmp_path_factory) -> tuple[ArtifactStore, str]:
    """A champion, trained once, on which no report has been written yet."""
    if not made:
        store, model = ArtifactStore(f"file://{tmp_path_factory.mktemp('store')}"), f"delays_{uuid.uuid4().hex[:8]}"
        with DatasetWriter(store, "delays_training") as writer:
            writer.write(flights(3_000, seed=1, window="2013-01"), "train")
            writer.write(flights(1_500, seed=2, window="2013-03"), "test")
            details = {**DETAILS, "label": "late", "task": "binary"}
            dataset = writer.commit(window=Window.model_validate("2013-01..2013-03"), details=details)[0].ref
        spec = {"dataset": dataset, "model": model, "trainer": {"estimator": "sklearn.linear_model.LogisticRegression"}}
        version = train.run(TrainSpec(**spec), StepContext(store, uuid.uuid4().hex)).candidate.version
        client.set_registered_model_alias(model, "champion", str(version))
        made["it"] = store.url, model
    url, model = made["it"]
    store = ArtifactStore(url)
    for folder in ("reports", "ledger"):
        for key in store.keys(f"{folder}/{model}"):
            store.delete(key)
    return store, model


def outcomes(deployed, data: pa.Table, window: str = "2013-04", known: slice = slice(None)):
    """Score ``data``, and join the labels of the rows ``known``."""
    (store, model), context = deployed, StepContext(deployed[0])
    rows = write(store, "scoring", data.drop_columns("late"), window, {**DETAILS, "label": None})
    predictions = score.run(ScoreSpec(model=model, dataset=rows), context).dataset
    labels = data.select(["flight", "late"]).take(pa.array(np.arange(data.num_rows)[known]))
    spec = {
        "predictions": predictions, "labels": write(store, "labels", labels, window), "on": ["flight"],
        "label": "late", "name": f"{model}_outcomes",
    }  # fmt: skip
    return join_labels.run(JoinLabelsSpec(**spec), context).dataset


def watch(deployed, dataset, window: str | None = None, **policy):
    spec = MonitorSpec(model=deployed[1], dataset=dataset, window=window, policy=policy)
    return monitor.run(spec, StepContext(deployed[0]))


def report(deployed, window: str = "2013-04") -> Report:
    return Report.model_validate(deployed[0].read_json(f"reports/{deployed[1]}/{window}.json"))


def page(deployed, window: str = "2013-04") -> str:
    return deployed[0].read_bytes(f"reports/{deployed[1]}/{window}.html").decode()


def test_a_window_like_training_is_healthy_and_everything_was_measured(deployed):
    result = watch(deployed, outcomes(deployed, flights(seed=3)))
    found = report(deployed)
    assert result.decision == "healthy", result.reason
    # Features, the event time, scores, labels, and the features together.
    assert found.drift_tests.columns == 8
    for drift in (*found.features, found.prediction, found.label, found.multivariate):
        assert drift.effect is not None, drift
        assert not drift.drifted
    assert found.label.kind == "categorical"
    assert found.schema_changes == []
    assert found.freshness.newest_event.month == 4
    assert 0 < found.freshness.behind_days < 1
    assert found.freshness.newest_score > datetime.now(timezone.utc) - timedelta(minutes=5)
    assert result.metrics["newest_row_age_days"] > 365
    assert {"multivariate_drift", "label_drift", "newest_row_behind_days"} <= set(result.metrics)
    for text in ("The features together", "<h2>Labels</h2>", "Newest row", "Last scored"):
        assert text in page(deployed)


def test_rows_that_were_quarantined_before_scoring_are_reported(deployed):
    (store, model), data, context = deployed, flights(seed=3), StepContext(deployed[0])
    valid = write(store, "rows_valid", data, "2013-04", {"quarantined": 400})
    spec = {
        "name": "scoring", "entities": valid, "timestamp": "time_hour", "keys": ["flight"], "columns": FEATURES,
        "split": None,
    }  # fmt: skip
    rows = training_set.run(TrainingSetSpec(**spec), context).dataset
    predictions = score.run(ScoreSpec(model=model, dataset=rows), context).dataset
    spec = {
        "predictions": predictions, "labels": valid, "on": ["flight"], "label": "late", "name": f"{model}_outcomes",
    }  # fmt: skip
    result = watch(deployed, join_labels.run(JoinLabelsSpec(**spec), context).dataset)
    assert (result.decision, report(deployed).quarantined) == ("watch", 400)
    assert result.headline.startswith("400 of 1,400 rows (29%) failed validation and were not scored")


def test_the_stored_profile_is_of_the_held_out_rows(deployed, client):
    from airflow_mlops.models import contracts
    from airflow_mlops.profiles.profile import ModelProfile
    from airflow_mlops.registry import versions as models

    champion = models.champion(client, deployed[1])
    known = ModelProfile.model_validate(contracts.read(client, deployed[0], champion).profile)
    held_out = flights(1_500, seed=2, window="2013-03")
    assert known.features.rows == 3_000
    assert known.multivariate.errors.rows == 1_500
    assert known.labels.columns["label"].counts() == {
        "0": int((~held_out["late"].to_numpy()).sum()), "1": int(held_out["late"].to_numpy().sum()),
    }  # fmt: skip
    from airflow_mlops.profiles.multivariate import ReconstructionErrors

    counted = ReconstructionErrors(known.multivariate)
    list(counted.count(held_out.to_batches()))
    assert counted.result() == known.multivariate.errors


def test_changed_relations_between_features_are_reported_even_if_no_feature_has_drifted(deployed):
    result = watch(deployed, outcomes(deployed, flights(seed=3, together=0.0)))
    assert result.decision == "healthy"
    assert "Joint distribution of the features drifted (" in result.reason
    assert result.metrics["features_drifted"] == 0
    assert report(deployed).multivariate.drifted


def test_label_drift_is_measured_once_labels_are_mature(deployed):
    data = flights(seed=3)
    often = replaced(data, late=np.random.default_rng(0).random(1_000) < 0.8)
    outcome = outcomes(deployed, often)
    result = watch(deployed, outcome, tolerance=0.5)
    assert result.decision == "watch"
    assert "Labels drifted (" in result.reason
    for young in ({"grace": "100000D"}, {"min_labels": 1_001}):
        watch(deployed, outcome, **young)
        assert report(deployed).label is None
    some = outcomes(deployed, often, known=slice(400))
    watch(deployed, some)
    assert report(deployed).label is None


def test_new_and_vanished_values_are_named(deployed):
    carriers = np.where(flights(seed=3)["carrier"].to_numpy(zero_copy_only=False) == "B6", "ZZ", "AA")
    result = watch(deployed, outcomes(deployed, replaced(flights(seed=3), carrier=carriers)))
    assert result.decision == "healthy"
    assert "Drifted features, with effects: carrier " in result.reason
    assert "new: 'ZZ' 2" in result.reason
    assert "; disappeared: 'B6' 28.1%, 'UA' 9.6%)" in result.reason
    assert "Joint distribution of the features drifted too (" in result.reason
    (carrier,) = [drift for drift in report(deployed).features if drift.column == "carrier"]
    assert [value for value, _ in carrier.new_values] == ["ZZ"]
    assert {value for value, _ in carrier.gone_values} == {"B6", "UA"}


def test_stale_rows_are_watched_if_the_policy_has_a_limit(deployed):
    data = flights(1_000, seed=3)
    early = data.filter(pa.array(data["time_hour"].to_numpy() < np.datetime64("2013-04-11")))
    outcome = outcomes(deployed, early)
    assert watch(deployed, outcome).decision == "healthy"
    result = watch(deployed, outcome, max_staleness="2D")
    assert result.decision == "watch"
    assert result.headline.startswith(
        "The newest prediction is 20.1 days older than the end of 2013-04 (limit: 2 days)"
    )
    assert result.metrics["newest_row_behind_days"] == pytest.approx(20, abs=0.5)


LATE = np.ones(1_000, dtype=bool)
MISSING = {name: pa.nulls(1_000, pa.float64()) for name in FEATURES[:3]} | {"carrier": pa.nulls(1_000, pa.string())}
CONSTANT = {name: np.full(1_000, 0.25) for name in FEATURES[:3]} | {"carrier": ["AA"] * 1_000}
THREE = np.where(np.arange(1_000) < 3, np.inf, flights()["wind"].to_numpy())


@pytest.mark.parametrize(
    ("data", "decision", "facts"),
    [
        (flights(0), "watch", ["No predictions in 2013-04."]),
        (flights(1), "watch", ["there is only 1 label (200 needed)", "there is only 1 row (50 needed)"]),
        (flights(1_000).slice(0, 0), "watch", ["No predictions in 2013-04."]),
        (replaced(flights(), late=LATE), "watch", ["all 1,000 labels are of the positive class", "Labels drifted"]),
        (replaced(flights(), late=~LATE), "watch", ["all 1,000 labels are of the negative class"]),
        (
            replaced(flights(), **MISSING), "watch",
            ["carrier has no values", "Repair these features"],
        ),
        (
            replaced(flights(), wind=THREE), "watch",
            ["Feature wind has infinite values in 3 rows (none at training)"],
        ),
        (
            # The model hardly uses the wind, so retraining without the wind solves the problem.
            replaced(flights(), wind=np.full(1_000, -np.inf)), "retrain",
            ["to be checked first: score.", "every row has the value 0.", "wind has no values; a request leaves wind out"],
        ),
        (
            replaced(flights(), **CONSTANT), "watch",
            [" has one value in all rows, ", "changed inputs explain at least part"],
        ),
    ],
    ids=[
        "no rows", "one row", "nothing left", "all late", "none late", "all missing", "three infinite", "all infinite",
        "constant scores",
    ],
)  # fmt: skip
def test_a_broken_window_gets_a_verdict_that_names_the_problem(data, decision, facts, deployed):
    result = watch(deployed, outcomes(deployed, data))
    assert [text for text in facts if text not in result.reason] == [], result.reason
    assert result.decision == decision
    assert bool(result.held_back) == ("postponed" in result.headline)
    assert all(text in unescape(page(deployed)) for text in (result.headline, *result.details))


def test_a_second_check_of_a_window_gives_the_same_report(deployed):
    # More rows than are counted exactly.
    outcome = outcomes(deployed, flights(6_000, seed=3))
    first = watch(deployed, outcome)
    before = report(deployed)
    second = watch(deployed, outcome)
    after = report(deployed)
    assert after.created > before.created
    assert after.model_copy(update={"created": before.created}) == before
    assert second.model_copy(update={"metrics": first.metrics}) == first
    changed = {name for name in first.metrics if first.metrics[name] != second.metrics[name]}
    assert changed == {"newest_row_age_days"}


@pytest.mark.parametrize("written", [0, 1], ids=["before the page", "between the page and the JSON"])
@pytest.mark.parametrize("again", [False, True], ids=["first check", "second check"])
def test_a_killed_check_leaves_the_last_report_and_a_retry_completes_it(written, again, deployed, monkeypatch):
    month = "2013-04"
    outcome = outcomes(deployed, flights(400, seed=3))
    if again:
        watch(deployed, outcome)
    known = report(deployed, month) if again else None
    left, write_bytes = [written], ArtifactStore.write_bytes

    def killed(self, key, data):
        if key.startswith("reports/"):
            if not left[0]:
                raise Killed
            left[0] -= 1
        write_bytes(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "write_bytes", killed)
        with pytest.raises(Killed):
            watch(deployed, outcome)
    store, model = deployed
    # Readers find the last complete report with its page; a page without a report is not found.
    key = archive.key(store, model, Window.model_validate(month))
    assert (report(deployed, month) if again else archive.read(store, key)) == known
    assert store.exists(archive.page(key)) == (again or written == 1)
    assert (archive.newest(store, model) == key) == again
    assert look(deployed, month).decision == "healthy" if again else look(deployed, month) is None
    result = watch(deployed, outcome)
    assert result.decision == report(deployed, month).verdict.decision == "healthy"


def look(deployed, window: str | None = None):
    return health.look(
        ModelHealthSpec(model=deployed[1], window=window, accept=["healthy", "watch", "retrain"]), deployed[0]
    )


def test_windows_may_be_checked_in_any_order(deployed):
    months = ("2015-03", "2015-05", "2015-04")
    made = {month: outcomes(deployed, flights(400, seed=3, window=month), month) for month in months}
    later = watch(deployed, made["2015-05"])
    assert not later.superseded
    # March is checked after May: the timeline, the sensors and the metrics still use May as the newest.
    earlier = watch(deployed, made["2015-03"])
    assert earlier.superseded
    assert look(deployed).window.label == "2015-05"
    assert "2015-05" not in page(deployed, "2015-03")
    operator = MonitorOperator(task_id="m", model=deployed[1], dataset=None)
    assert operator.samples(earlier.model_dump(mode="json")) == []
    assert {sample.metric.name for sample in operator.samples(later.model_dump(mode="json"))} > {
        "mlops.monitor.decision"
    }
    # The next page shows all windows by time.
    assert watch(deployed, made["2015-04"]).superseded
    watch(deployed, made["2015-05"])
    shown = page(deployed, "2015-05")
    assert shown.index("2015-03: roc_auc") < shown.index("2015-04: roc_auc") < shown.index("2015-05: roc_auc")
    assert [item.window.label for item in monitor_report.history(deployed[1], Window.model_validate("2015-05"), deployed[0])][-2:] == [
        "2015-03", "2015-04",
    ]  # fmt: skip


def test_a_window_with_late_labels_is_checked_again(deployed):
    month, after = "2016-01", "2016-02"
    data = flights(400, seed=3, window=month)
    none = watch(deployed, outcomes(deployed, data, month, known=slice(0)))
    assert none.decision == "watch"
    assert none.headline == "Realised performance is not judged because there are no labels"
    assert "Estimated ROC AUC" in none.reason
    young = watch(deployed, outcomes(deployed, flights(400, seed=4, window=after), after, known=slice(0)))
    # No later window has judged performance, so this one is not superseded.
    known = watch(deployed, outcomes(deployed, data, month))
    assert (known.decision, known.superseded) == ("healthy", False)
    assert look(deployed, month).decision == "healthy"
    assert report(deployed, month).label is not None
    # A later window with judged performance supersedes it.
    assert not young.superseded
    watch(deployed, outcomes(deployed, flights(400, seed=4, window=after), after))
    assert watch(deployed, {"name": f"{deployed[1]}_outcomes", "window": month}).superseded


def test_a_missing_feature_does_not_fail_the_check(deployed):
    store, model = deployed
    whole = outcomes(deployed, flights(seed=3))
    (opened,) = select(store, whole)
    table = opened.table().drop_columns(["gust"])
    texts = pa.array([f"{value:.1f}" for value in table["wind"].to_pylist()])
    table = table.set_column(table.schema.get_field_index("wind"), "wind", texts).append_column("gate", texts)
    made = write(store, f"{model}_dropped", table, "2013-04", opened.manifest.details)
    result = watch(deployed, made)
    assert result.decision == "watch"
    assert result.headline.startswith(
        "Schema changed since training: wind changed from double to string and gust is absent"
    )
    found = report(deployed)
    assert [str(item) for item in found.schema_changes] == [
        "wind changed from double to string",
        "gust is absent",
        "gate is new",
    ]
    notes = {drift.column: drift.note for drift in found.features}
    assert notes["gust"] == "not measured: the column is absent"
    assert notes["wind"] == "not measured: it was double at training and is string now"
    assert found.multivariate.note == "not measured: column 'wind' is absent"
    assert {"distance", "carrier"} == {drift.column for drift in found.features if drift.effect is not None}
    assert "gate is new" in page(deployed)
    # Scoring fails without the feature.
    data = flights(seed=3).drop_columns(["late", "gust"])
    rows = write(store, "scoring", data, "2013-04", {**DETAILS, "label": None})
    with pytest.raises(SchemaError, match="'gust'"):
        score.run(ScoreSpec(model=model, dataset=rows), StepContext(store))


@pytest.mark.parametrize("gone", [[], ["gust"]])
def test_profiles_of_shards_give_the_report_of_one_pass(gone, deployed):
    (store, model), context = deployed, StepContext(deployed[0])
    (whole,) = select(store, outcomes(deployed, flights(2_000, seed=3, together=0.5)))
    table = whole.table().drop_columns(gone)
    with DatasetWriter(store, f"{model}_parts") as writer:
        for start in range(0, 2_000, 500):
            writer.write(table.slice(start, 500))
        made = writer.commit(window=whole.manifest.window, details=whole.manifest.details)[0].ref
    watch(deployed, made)
    once = report(deployed)
    shards = [ProfileSpec(model=model, dataset=made, shard=number, shards=3) for number in range(3)]
    profiles = [profile.run(shard, context).model_dump() for shard in shards]
    monitor.run(MonitorSpec(model=model, dataset=made, profiles=profiles), context)
    assert report(deployed).model_dump(exclude={"created"}) == once.model_dump(exclude={"created"})
    assert (once.multivariate.effect is None) == bool(gone)
    if not gone:
        bare = profile.run(ProfileSpec(columns=[*FEATURES, "score"], dataset=made), context)
        monitor.run(MonitorSpec(model=model, dataset=made, profiles=bare.model_dump()), context)
        note = "not measured: the profiles of the shards were computed without the model"
        assert report(deployed).multivariate.note == note
        (time,) = report(deployed).watched
        assert (time.column, time.note) == ("time_hour", "not measured: the profiles of the shards do not have it")


def test_the_joint_distribution_can_be_compared_with_earlier_windows(deployed):
    store, model = deployed
    watch(deployed, outcomes(deployed, flights(seed=3, window="2013-05", together=0.0), "2013-05"))
    assert report(deployed, "2013-05").multivariate.drifted
    made = outcomes(deployed, flights(seed=4, window="2013-06", together=0.0), "2013-06")
    monitor.run(MonitorSpec(model=model, dataset=made, reference={"rolling": 1}), StepContext(store))
    found = report(deployed, "2013-06").multivariate
    assert (found.reference, found.drifted) == ("2013-05", False)
