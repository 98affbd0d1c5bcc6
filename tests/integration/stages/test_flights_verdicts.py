"""The year of flights with the example's policy: the weather moves every month, and few verdicts are **watch**."""

from __future__ import annotations

import importlib
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy.findings import Report
from airflow_mlops.registry import versions as models
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import step as evaluate
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec
from airflow_mlops.stages.refit import step as refit
from airflow_mlops.stages.refit.spec import RefitSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from airflow_mlops.stages.train import step as train
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.training_set import step as training_set
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from airflow_mlops.trainers import SklearnTrainer

DAGS = Path(__file__).parents[3] / "dags"
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
TREES = SklearnTrainer(
    "sklearn.ensemble.HistGradientBoostingClassifier",
    params={"max_iter": 20, "learning_rate": 0.2, "max_leaf_nodes": 15},
)


@pytest.fixture
def example(monkeypatch):
    """The module that the example DAGs share, the policy of its monitoring, and the part that its training holds out."""
    monkeypatch.syspath_prepend(DAGS)
    found = importlib.import_module("flights")
    found.POLICY = importlib.import_module("flights_monitor").outcomes.dag.get_task("monitor").policy
    found.HELD_OUT = importlib.import_module("flights_train").data.dag.params["held_out"]
    return found


def months(example) -> dict[str, pa.Table]:
    """A quarter of the flights of each month with the weather of the hour, which stands in for the join by Feast."""
    flights = pd.read_csv(f"{example.DATA}/flights.csv.zip", na_values=["NA"])
    weather = pd.read_csv(f"{example.DATA}/weather.csv", na_values=["NA"]).drop_duplicates(["origin", "time_hour"])
    data = flights.merge(weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left")
    data["time_hour"] = pd.to_datetime(data["time_hour"], utc=True).astype("datetime64[us, UTC]")
    data = data[[*example.KEYS, *(set(example.SCHEDULE_COLUMNS) - {*example.KEYS}), *WEATHER, "arr_delay"]]
    data = data.dropna(subset=["tailnum"]).iloc[::4]
    return {
        key.strftime("%Y-%m"): pa.Table.from_pandas(part, preserve_index=False)
        for key, part in data.groupby(data["time_hour"].dt.tz_localize(None).dt.to_period("M"))
        if key.year == 2013
    }


class Year:
    """The example's DAGs without Airflow: each month is ingested, scored, monitored and, on request, trained on."""

    def __init__(self, example, store: ArtifactStore, client) -> None:
        self.example, self.store, self.client = example, store, client
        self.model = f"flights_{uuid.uuid4().hex[:8]}"

    def context(self, requests=()) -> StepContext:
        return StepContext(
            self.store, f"results/{uuid.uuid4().hex}.json", provenance=Provenance(requests=list(requests))
        )

    def month(self, key: str, data: pa.Table):
        with DatasetWriter(self.store, "flights") as writer:
            writer.write(data)
            writer.commit(window=Window.model_validate(key))
        outcomes = self.outcomes(key) if models.champion(self.client, self.model) else None
        spec = MonitorSpec(model=self.model, dataset=outcomes, window=key, policy=self.example.POLICY)
        result = monitor.run(spec, self.context())
        if result.request is not None:
            self.train(result.request, key)
        return result

    def features(self, window: str, requests=(), **fields):
        spec = TrainingSetSpec(
            name=f"{self.model}_{'training' if 'label' in fields else 'scoring'}",
            entities={"name": "flights", "window": window},
            timestamp="time_hour",
            columns=[*self.example.SCHEDULE_COLUMNS, *WEATHER],
            keys=self.example.KEYS,
            **fields,
        )
        return training_set.run(spec, self.context(requests)).dataset

    def outcomes(self, key: str):
        rows = self.features(key, split=None)
        predictions = score.run(ScoreSpec(model=self.model, dataset=rows, window=key), self.context()).dataset
        spec = JoinLabelsSpec(
            predictions=predictions,
            labels={"name": "flights", "window": key},
            on=self.example.KEYS,
            label=self.example.LABEL,
            name=f"{self.model}_outcomes",
        )
        return join_labels.run(spec, self.context()).dataset

    def train(self, request, key: str) -> None:
        split = {"method": "time", "test_size": self.example.HELD_OUT}
        data = self.features(f"2013-01..{key}", [request], label=self.example.LABEL, split=split)
        spec = TrainSpec(dataset=data, model=self.model, trainer=TREES)
        candidate = train.run(spec, self.context([request])).candidate
        spec = EvaluateSpec(candidates=[candidate], dataset=data, gates=self.example.GATES)
        verdict = evaluate.run(spec, self.context([request])).verdict
        verdict = refit.run(RefitSpec(verdict=verdict), self.context([request])).verdict
        promote.run(PromoteSpec(verdict=verdict), self.context([request]))

    def report(self, key: str) -> Report:
        return Report.model_validate(self.store.read_json(f"reports/{self.model}/{key}.json"))


@pytest.mark.slow
def test_the_year_has_few_watches_and_a_broken_feature_raises_one_at_once(example, client, tmp_path):
    year, data = Year(example, ArtifactStore(f"file://{tmp_path}/store"), client), months(example)
    results = {key: year.month(key, rows) for key, rows in data.items()}
    decisions = [result.decision for result in results.values()]
    assert decisions.count("watch") <= 3, results
    assert decisions.count("healthy") >= 2
    # In every month after the first, challengers are compared, based on the labels and the training sets that the steps
    # wrote.
    assert [year.report(key).challenger is not None for key in results] == [False] + [True] * 11
    # January trains the first model. Measured on half of the flights: retraining after every month reaches a mean ROC
    # AUC of 0.704 from May on, with twice as many trees (benchmarks.retraining).
    measured = [year.report(key).performance for key in results if key >= "2013-05"]
    values = [found.value for found in measured if found is not None]
    assert len(values) == 8
    assert np.mean(values) >= 0.694
    assert decisions.count("retrain") - 1 <= 7
    # Features drift in nearly every month, also in healthy ones.
    assert sum(year.report(key).features[0].drifted for key in results if results[key].decision == "healthy") >= 2

    frozen = data["2013-12"]
    frozen = frozen.set_column(frozen.schema.get_field_index("temp"), "temp", pa.array(np.full(len(frozen), 61.3)))
    broken = year.month("2013-12", frozen)
    assert broken.decision == "watch"
    assert "temp has one value in all rows" in broken.headline
