"""Dates of windows west of UTC stay the same days when later steps have converted them to timestamps."""

from __future__ import annotations

import uuid
from datetime import date

import pyarrow as pa
import pytest

from airflow_mlops.core.references import DatasetSelection, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.join_labels.step import run as join_labels
from airflow_mlops.stages.score.scoring import Scoring
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.stages.training_set.step import run as build
from tests.support.deployed import flights
from tests.support.predictions import model_in_memory

ZONE = "America/Los_Angeles"
MONTH = Window.model_validate(f"2013-03[{ZONE}]")


@pytest.fixture
def store() -> ArtifactStore:
    return ArtifactStore(f"memory://{uuid.uuid4().hex}")


def ingest(store: ArtifactStore, kind: pa.DataType) -> None:
    days = pa.array([date(2013, 3, number // 2 + 1) for number in range(62)]).cast(kind)
    with DatasetWriter(store, "flights") as writer:
        table = flights(62)
        writer.write(table.set_column(table.column_names.index("time_hour"), "time_hour", days))
        writer.commit(window=MONTH, time_column="time_hour")


def found(store: ArtifactStore, name: str, window: str) -> list[int]:
    """The flights of a window; flights 2n and 2n + 1 are on day n + 1."""
    wanted = DatasetSelection(name=name, window=Window.model_validate(f"{window}[{ZONE}]"))
    return sorted(
        number
        for dataset in select(store, wanted)
        for number in dataset.table(columns=["flight"])["flight"].to_pylist()
    )


def score(store: ArtifactStore, dataset) -> object:
    datasets, version = select(store, dataset), ModelVersionRef(model="delays", version=1, run_id="r")
    work = Scoring(datasets, version, "predictions", None, MONTH, StepContext(store))
    return work.all_rows(model_in_memory())


@pytest.mark.parametrize("kind", [pa.string(), pa.date32()])
@pytest.mark.parametrize("direct", [True, False])
def test_each_step_keeps_the_local_days_of_dates(store, kind, direct):
    ingest(store, kind)
    source = DatasetSelection(name="flights", window=MONTH)
    if not direct:
        spec = TrainingSetSpec(
            name="scoring", entities=source, timestamp="time_hour", columns=["distance", "wind"], keys=["flight"],
            watched=["arr_delay"], split=None,
        )  # fmt: skip
        source = build(spec, StepContext(store)).dataset
    predictions = score(store, source)
    spec = JoinLabelsSpec(
        predictions=predictions.ref,
        labels=DatasetSelection(name="flights"),
        on=["flight"],
        label="arr_delay",
        name="outcomes",
    )
    join_labels(spec, StepContext(store))
    names = ["flights", "predictions", "outcomes", *([] if direct else ["scoring"])]
    for window, days in (("2013-03-01", [1]), ("2013-03-31", [31]), ("2013-03-10..2013-03-11", [10, 11])):
        flights_of = [2 * (day - 1) + turn for day in days for turn in (0, 1)]
        assert {name: found(store, name, window) for name in names} == dict.fromkeys(names, flights_of)


def test_times_at_midnight_in_utc_are_not_dates(store):
    ingest(store, pa.timestamp("us", "UTC"))
    spec = TrainingSetSpec(
        name="scoring", entities=DatasetSelection(name="flights", window=MONTH), timestamp="time_hour",
        columns=["distance"], keys=["flight"], split=None,
    )  # fmt: skip
    build(spec, StepContext(store))
    # Midnight of 2 March in UTC is in the afternoon of 1 March.
    assert found(store, "scoring", "2013-03-01") == [2, 3]
