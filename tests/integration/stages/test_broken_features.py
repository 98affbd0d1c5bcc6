"""A feature breaks: monitoring requests retraining without it, and the next window is scored by the new model."""

from __future__ import annotations

import re
import uuid

import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.models import contracts
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.integration.stages.test_challengers import LINEAR, check, flights, report, trained  # noqa: F401
from tests.support.deployed import write


def without_wind(month: int) -> pa.Table:
    """Flights of a month in which the relation has changed, and the feed of the wind has stopped."""
    data = flights(month, seed=month, sign=-1.0)
    gone = pa.nulls(data.num_rows, pa.float64())
    return data.set_column(data.column_names.index("wind"), "wind", gone)


@pytest.mark.usefixtures("airflow_db")
def test_a_model_is_retrained_without_the_feature_that_broke(client, store, check):  # noqa: F811
    champion = trained(client, store, LINEAR)
    months = {month: without_wind(month) for month in (4, 5)}
    waiting = check(champion, "2013-04", months[4], on_broken="wait")
    assert (waiting.decision, waiting.request) == ("watch", None)
    asked = check(champion, "2013-04", months[4])
    assert asked.decision == "retrain", asked.reason
    assert asked.request.without == ["wind"]
    # The ledger has the request, and a second check of the window returns it.
    assert check(champion, "2013-04", months[4]).request == asked.request

    def step(name: str) -> StepContext:
        return StepContext(
            store, f"results/{uuid.uuid4().hex}-{name}.json", provenance=Provenance(requests=[asked.request])
        )

    write(store, "events", months[4], "2013-04")
    spec = TrainingSetSpec(
        name="events_training", entities={"name": "events", "window": "2013-04"}, timestamp="time_hour",
        columns=["distance", "wind"], keys=["flight"], label={"name": "late", "expression": "arr_delay > 15"},
        split={"method": "time", "test_size": "10D"},
    )  # fmt: skip
    built = training_set.run(spec, step("build"))
    assert built.features == ["distance"]
    manifest = open_dataset(store, built.dataset).manifest
    assert manifest.details["without"] == ["wind"]
    # The champion, with which the candidate is compared, still reads the column.
    assert "wind" in manifest.column_names

    candidate = train.run(
        TrainSpec(dataset=built.dataset, model=champion.model, trainer=LINEAR), step("train")
    ).candidate
    verdict = evaluate.run(EvaluateSpec(candidates=[candidate]), step("evaluate")).verdict
    assert verdict.winner == candidate, verdict.reason
    assert promote.run(PromoteSpec(verdict=verdict), step("promote")).promoted
    known = contracts.read(client, store, candidate).contract
    assert [feature.name for feature in known.features] == ["distance"]

    # The feed is still broken, which no longer concerns the model.
    after = check(candidate, "2013-05", months[5])
    assert after.decision != "retrain", after.reason
    assert not re.search(r"\bwind\b", after.reason)
    written = report(store, candidate, "2013-05")
    assert written.champion == candidate
    assert [drift.column for drift in written.features] == ["distance"]
