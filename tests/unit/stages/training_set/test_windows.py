"""Training sets over a window that follows the window of the run: rows, held-out rows, weights and records."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import IncompleteWindowError, SpecError, TrainingError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.row_weights import RowWeights, decayed, effective_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.training_data import read_part
from airflow_mlops.operators.windows import Decay, Expanding, Rolling
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run
from tests.support.months import write_months
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

SIX = [f"2013-{number:02}" for number in range(1, 7)]
ROWS = 240


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(f"file://{tmp_path}")


def build(store, month="2013-06", gaps="fail", **options):
    fields = {
        "name": "training",
        "entities": {"name": "orders", "window": month, "gaps": gaps},
        "timestamp": "at",
        "columns": ["amount", "hour"],
        "keys": ["order"],
        "label": "late",
        "split": {"method": "time", "test_size": "window"},
        **options,
    }
    return run(parse(TrainingSetSpec, fields, "The step"), StepContext(store=store))


def months_of(store, result, part):
    times = open_dataset(store, result.dataset).table(part, ["at"])["at"].to_pylist()
    return sorted({f"{time:%Y-%m}" for time in times})


def test_a_rolling_window_reads_the_months_that_end_with_the_run(store):
    write_months(store, SIX, ROWS)
    result = build(store, window=Rolling("P3M"))
    assert result.dataset.window == Window.model_validate("2013-04..2013-06")
    assert (months_of(store, result, "train"), months_of(store, result, "test")) == (
        ["2013-04", "2013-05"],
        ["2013-06"],
    )
    assert result.window_rule == "Rolling(P3M)"
    assert open_dataset(store, result.dataset).manifest.details["window_rule"] == {
        "rule": "Rolling(P3M)",
        "run": "2013-06-01T00:00:00Z/2013-07-01T00:00:00Z",
        "window": "2013-04-01T00:00:00Z/2013-07-01T00:00:00Z",
    }


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
@pytest.mark.parametrize("kind", [pa.date32(), pa.string()])
def test_dates_are_held_out_by_their_day_in_the_time_zone_of_the_run(store, zone, kind):
    for month in SIX[3:]:
        days = [date(2013, int(month[-2:]), day) for day in range(1, 31)]
        labels = [day.day % 3 == 0 for day in days]
        rows = {"at": pa.array(days).cast(kind), "order": range(30), "amount": np.arange(30.0) % 7, "late": labels}
        with DatasetWriter(store, "orders") as writer:
            writer.write(pa.table(rows))
            writer.commit(window=Window.model_validate(f"{month}[{zone}]"), time_column="at")
    result = build(store, f"2013-06[{zone}]", window=Rolling("P3M"), columns=["amount"])
    assert (months_of(store, result, "train"), months_of(store, result, "test")) == (
        ["2013-04", "2013-05"],
        ["2013-06"],
    )
    assert result.rows == {"train": 60, "test": 30}


def test_rows_after_the_window_of_the_run_are_not_read(store):
    write_months(store, SIX, ROWS)
    for window in (Rolling("P2M"), Expanding("2013-01-01"), Decay("P30D")):
        assert months_of(store, build(store, "2013-04", window=window), "test") == ["2013-04"]


def test_a_rolling_window_may_begin_within_a_dataset(store):
    write_months(store, SIX, ROWS)
    result = build(store, window=Rolling("P45D"))
    times = open_dataset(store, result.dataset).table("train", ["at"])["at"].to_pylist()
    assert min(times) >= datetime(2013, 5, 17, tzinfo=timezone.utc)
    assert result.dataset.window == Window.model_validate("2013-05-17/2013-07-01")


@pytest.mark.parametrize("split", [{"method": "time", "test_size": "window"}, {"method": "time", "test_size": "10D"}])
def test_the_held_out_rows_do_not_depend_on_the_window(store, split):
    write_months(store, SIX, ROWS)
    rules = (Rolling("P2M"), Rolling("P3M"), Expanding("2013-01-01"), Decay("P30D"))
    details = [open_dataset(store, build(store, window=rule, split=split).dataset).manifest.details for rule in rules]
    assert len({found["split"]["row_ids"]["test"] for found in details}) == 1
    assert (
        len({found["split"]["row_ids"]["train"] for found in details}) == 3
    )  # Expanding and Decay read the same rows.


def test_a_missing_month_follows_the_rule_for_gaps(store):
    write_months(store, [*SIX[:2], *SIX[3:]], ROWS)
    with pytest.raises(IncompleteWindowError, match="2013-03"):
        build(store, window=Rolling("P5M"))
    result = build(store, gaps="allow", window=Rolling("P5M"))
    assert open_dataset(store, result.dataset).manifest.details["gaps"] == ["2013-03"]


def test_months_before_the_first_are_a_gap_too(store):
    write_months(store, SIX[3:], ROWS)
    with pytest.raises(IncompleteWindowError, match="2013-Q1 is missing"):
        build(store, window=Rolling("P6M"))
    result = build(store, gaps="allow", window=Rolling("P6M"))
    assert open_dataset(store, result.dataset).manifest.details["gaps"] == ["2013-Q1"]
    # A decaying window begins with the oldest available data.
    assert "gaps" not in open_dataset(store, build(store, window=Decay("P30D")).dataset).manifest.details


def test_weights_halve_with_the_age_of_a_row(store):
    write_months(store, SIX, ROWS)
    dataset = open_dataset(store, build(store, window=Decay("P30D")).dataset)
    data = read_part(dataset, "train")
    times = dataset.table("train", ["at"])["at"].to_pylist()
    end = datetime(2013, 7, 1, tzinfo=timezone.utc)
    expected = [0.5 ** ((end - time) / timedelta(days=30)) for time in times]
    np.testing.assert_allclose(data.weights, expected, rtol=1e-12)
    details = dataset.manifest.details["weights"]
    assert details["mean"]["train"] == pytest.approx(np.mean(expected))
    assert details["effective_rows"]["train"] == pytest.approx(np.sum(expected) ** 2 / np.square(expected).sum())
    everything = read_part(dataset, None)
    assert len(everything.labels) == len(everything.weights) == dataset.rows
    assert RowWeights.of(dataset).mean(dataset, None) == pytest.approx(everything.weights.mean())


def test_other_rules_give_no_weights(store):
    write_months(store, SIX, ROWS)
    dataset = open_dataset(store, build(store, window=Expanding("2013-01-01")).dataset)
    assert (RowWeights.of(dataset), read_part(dataset, "train").weights) == (None, None)


def test_weights_that_are_all_zero_are_refused(store):
    write_months(store, SIX, ROWS)
    with pytest.raises(TrainingError, match="'train' are 0"):
        build(store, window=Decay("PT1M"))


def test_a_row_that_is_newer_than_the_window_has_the_weight_one():
    end = datetime(1970, 1, 2, tzinfo=timezone.utc)
    found = decayed(np.array([0, 86_400_000_000, 10 * 86_400_000_000]), timedelta(days=1), end)
    assert found.tolist() == [0.5, 1.0, 1.0]
    assert effective_rows(lambda: iter([np.array([3.0]), np.array([3.0, 0.0])]), 3) == pytest.approx(2)


@pytest.mark.parametrize(
    "options",
    [
        {"entities": {"name": "orders"}, "window": Rolling("P3M")},
        {"entities": {"name": "orders", "id": "1" * 64, "rows": 1}, "window": Rolling("P3M")},
        {"window": Rolling("P3M"), "split": {"method": "random", "test_size": "window"}},
        {"window": None},
        {"window": "2013-05"},
        {"window": Expanding("2014")},
    ],
)
def test_a_rule_without_the_window_of_the_run_and_contradictions_are_refused(store, options):
    write_months(store, SIX[-1:], ROWS)
    with pytest.raises(SpecError):
        build(store, **options)


def test_a_dataset_without_windows_is_refused(store):
    with DatasetWriter(store, "snapshots") as writer:
        writer.write(pa.table({"at": ["2013-06-01"], "amount": [1.0]}))
        writer.commit()
    for window in (Decay("P30D"), Rolling("P3M")):
        with pytest.raises(Exception, match="has no windows|has only snapshots"):
            build(store, entities={"name": "snapshots", "window": "2013-06"}, window=window)


@pytest.mark.parametrize("make", [lambda: Rolling("6M"), lambda: Expanding("x"), lambda: Decay("P1M")])
def test_an_invalid_rule_is_refused_while_the_dag_is_parsed(make):
    with pytest.raises(SpecError):
        make()


def test_a_template_in_a_rule_is_checked_later():
    assert Rolling("{{ params.months }}")["length"] == "{{ params.months }}"
