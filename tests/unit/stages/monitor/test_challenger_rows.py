"""The rows on which MonitorOperator trains challengers: all windows up to the compared one, and none from after it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.gains import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.stages.monitor import challengers
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.older_rows import OlderRows
from airflow_mlops.stages.monitor.performance import Realised
from airflow_mlops.trainers import SklearnTrainer
from tests.support.deployed import write

V1 = ModelVersionRef(model="delays", version=1, run_id="r")
ROWS = 10
LINEAR = SklearnTrainer("sklearn.linear_model.LogisticRegression")


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def given(store, monkeypatch):
    """Return the rows that challengers of a month (April by default) get, as months by past, and the number of windows since training."""

    def given(
        trained_until: str = "2013-01", timestamp: str | None = "time_hour", checked: int = 4
    ) -> tuple[dict, list[int], int] | None:
        seen = []

        def cross_fit(fits, champion, current, older, metric, since_training, groups):
            seen.append(({past: months(table) for past, table in older.items()}, months(current), since_training))
            losses = np.ones(2)
            return Comparison(
                champion=V1, metric=metric, rows=2, value=0.5, loss=1, challengers=[compare(losses, losses, None, 2, 1)]
            )

        monkeypatch.setattr(challengers, "cross_fit", cross_fit)
        until = int(trained_until[-2:])
        training = pa.concat_tables([month(number) for number in range(1, until + 1)])
        ref = write(store, "training", training, f"2013-01..{trained_until}" if until > 1 else "2013-01")
        contract = ModelContract(
            task="binary", label="label", features=[FeatureColumn(name="month", kind="number")], classes=[0, 1],
            positive=1, dataset_name=ref.name, dataset_id=ref.id, timestamp=timestamp,
        )  # fmt: skip
        outcomes = {number: write(store, "outcomes", month(number), f"2013-0{number}") for number in range(1, 7)}
        check = Check(
            "delays", Window.model_validate(f"2013-0{checked}"), datetime(2013, 9, 1, tzinfo=timezone.utc), Policy(),
            [open_dataset(store, outcomes[checked])], store,
        )  # fmt: skip
        stored = VersionContract(contract=contract)
        probe = challengers.probe(check, V1, stored, Realised(), [], Ledger(store, "delays"), LINEAR, None)
        assert bool(seen) is (probe.comparison is not None)
        return seen[0] if seen else None

    return given


def months(table: pa.Table) -> list[int]:
    """Return the month of each row, once for each time that the rows of the month occur."""
    return sorted(table["month"].to_pylist())[::ROWS]


def month(number: int) -> pa.Table:
    start = datetime(2013, number, 1, tzinfo=timezone.utc)
    times = [start + timedelta(days=2 * day) for day in range(ROWS)]
    return pa.table(
        {
            "month": pa.array([float(number)] * ROWS),
            "label": [0, 1] * (ROWS // 2),
            "time_hour": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


def test_challengers_learn_from_all_windows_before_the_compared_one_and_from_no_later_one(given):
    older, current, since_training = given()
    # "3" means the last three windows including the compared one. May and June are in the store, but later than the
    # compared window.
    assert older == {None: [1, 2, 3], 3: [2, 3], 1: []}
    assert current == [4]
    assert since_training == 3


def test_of_a_large_window_only_a_sample_is_read(store, monkeypatch):
    tables = [month(number).append_column("number", pa.array(range(ROWS))) for number in (1, 2, 3)]
    labels = pa.array([None, 1.0, float("nan"), 0.0] * 2 + [1.0, None])
    tables[0] = tables[0].set_column(1, "label", labels)
    tables[2] = tables[2].slice(0, 0)
    datasets = [
        open_dataset(store, write(store, "outcomes", table, f"2013-0{number}"))
        for number, table in enumerate(tables, 1)
    ]
    columns, policy = ["number", "label"], Policy(groups="number")
    whole = [challengers.labelled(item, columns) for item in datasets]
    assert [table.num_rows for table in whole] == [5, 10, 0]
    assert challengers._chosen(datasets) == [None, None, None]
    monkeypatch.setattr(challengers, "MAX_ROWS", 8)
    chosen = challengers._chosen(datasets)
    found = [challengers.labelled(item, columns, rows) for item, rows in zip(datasets, chosen, strict=True)]
    assert sum(table.num_rows for table in found) == 8
    assert all(0 < table.num_rows < 10 for table in found[:2])
    for all_rows, some, numbers in zip(whole, found, chosen, strict=True):
        assert some.equals(all_rows.take(pa.array(numbers)))
    numbers = [value for table in found for value in table["number"].to_pylist()]
    groups = challengers.labelled_clusters(datasets, policy, chosen)
    assert [groups[first] == groups[0] for first in range(8)] == [value == numbers[0] for value in numbers]


def test_of_the_older_rows_only_a_sample_is_read(store, monkeypatch):
    tables = [month(number).append_column("number", pa.array(range(ROWS))) for number in (1, 2, 3)]
    tables[2] = tables[2].set_column(1, "label", pa.array([None, 1, 0, 1, 0] * 2))
    training = write(store, "training", pa.concat_tables(tables[:2]), "2013-01..2013-02")
    outcomes = open_dataset(store, write(store, "outcomes", tables[2], "2013-03"))
    features, window = ["number", "month"], Window.model_validate("2013-03")
    older = [
        OlderRows(
            open_dataset(store, training), Window.model_validate("2013-01..2013-02"), features, "label", "time_hour"
        ),
        OlderRows(outcomes, window, features, "label"),
    ]

    def read() -> dict:
        found = challengers._pasts(older, Window.model_validate("2013-04"))
        return {past: pa.concat_tables([item.table for item in parts]) for past, parts in found.items()}

    whole = read()
    assert {past: table.num_rows for past, table in whole.items()} == {None: 28, 3: 18, 1: 0}
    monkeypatch.setattr(challengers, "MAX_ROWS", 8)
    some = read()
    assert [*some] == [*whole]
    for past, table in whole.items():
        assert some[past].equals(challengers.sampled(table))
        assert some[past].num_rows == min(8, table.num_rows)


def test_windows_in_the_training_set_do_not_count_twice(given):
    older, _, since_training = given("2013-03")
    assert older == {None: [1, 2, 3], 3: [2, 3], 1: []}
    assert since_training == 1


@pytest.mark.parametrize("until", ["2013-04", "2013-05"])
def test_a_champion_that_knows_the_window_is_not_compared_on_it(given, until):
    assert given(until) is None


def test_without_times_the_training_set_belongs_to_its_window(given):
    older, _, _ = given("2013-02", timestamp=None)
    # The rows of January and February have no times, so none of them is known to be from February.
    assert older == {None: [1, 2, 3], 3: [3], 1: []}


def test_windows_are_counted_in_calendar_time(given):
    # Windows are counted in months: April and May together have more days than two Junes.
    older, current, _ = given(checked=6)
    assert older == {None: [1, 2, 3, 4, 5], 3: [4, 5], 1: []}
    assert current == [6]


@pytest.mark.parametrize(
    ("window", "start"),
    [
        ("2013-02", "2012-12-01T00:00Z"),
        ("2013-Q2", "2012-10-01T00:00Z"),
        ("2013", "2011-01-01T00:00Z"),
        ("2013-W14", "2013-03-18T00:00Z"),
        ("2013-04-01T06", "2013-04-01T04:00Z"),
        # The day of the change to summer time has 23 hours.
        ("2013-03-31[Europe/Berlin]", "2013-03-28T23:00Z"),
        # Hours before and after the change.
        ("2013-03-31T03[Europe/Berlin]", "2013-03-30T23:00Z"),
    ],
)
def test_the_start_of_the_window_before_the_last(window, start):
    assert challengers._earlier_start(Window.model_validate(window), 2) == datetime.fromisoformat(
        start.replace("Z", "+00:00")
    )
