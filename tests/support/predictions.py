"""Predictions and outcomes written by the steps themselves, with a model in memory and without a registry."""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Manifest, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.score import step as score
from tests.support.candidates import linear
from tests.support.deployed import FEATURES, WEIGHTS, flights, scoring_set, write
from tests.support.killing import Killed

_CONTRACT = ModelContract(
    task="binary",
    label="late",
    features=[FeatureColumn(name=name, kind="number") for name in FEATURES],
    classes=[False, True],
    positive=True,
    dataset_name="training",
    dataset_id="t",
    timestamp="time_hour",
)


def model_in_memory() -> OnnxModel:
    """A linear model that is not registered."""
    return OnnxModel(linear("binary", FEATURES, WEIGHTS), _CONTRACT)


def rows(*numbers: int) -> pa.Table:
    """The flights with these numbers, each between 0 and 9."""
    return flights(10).take(pa.array(numbers, pa.int64()))


def score_rows(
    store: ArtifactStore,
    model: OnnxModel,
    version: int,
    window: str | None,
    data: pa.Table,
    *,
    name: str = "delays",
    part: str | None = None,
    source: str | None = None,
    **provenance: Any,
) -> Manifest:
    """Score ``data`` with ``version`` of the model ``name`` and write the predictions for ``window``."""
    plain_store = ArtifactStore(store.url)
    dataset = scoring_set(plain_store, data, window or "2013", source or f"scoring_{uuid.uuid4().hex[:8]}")
    return score.score(
        [open_dataset(plain_store, dataset)],
        model,
        ModelVersionRef(model=name, version=version, run_id="r"),
        name="delays_predictions",
        part=part,
        window=Window.model_validate(window) if window else None,
        context=StepContext(store, provenance=Provenance(**provenance)),
    )


def join_delays(store: ArtifactStore, predictions: Any, data: pa.Table) -> DatasetRef:
    """Join the delays in ``data`` to predictions."""
    labels = write(store, "flights", data.select(["flight", "arr_delay"]), "2013")
    spec = JoinLabelsSpec(
        predictions=predictions,
        labels=labels,
        on=["flight"],
        label={"name": "late", "expression": "arr_delay > 15"},
        name="delays_outcomes",
    )
    outcomes = join_labels.run(spec, StepContext(store)).dataset
    assert outcomes is not None
    return outcomes


class DyingStore(ArtifactStore):
    """A store that raises :class:`Killed` after ``changes`` writes of JSON files and deletions, and then changes nothing."""

    def __init__(self, url: str, changes: int) -> None:
        super().__init__(url)
        self.left = changes
        self.dead = False

    def write_bytes(self, key: str, data: bytes) -> None:
        self._change()
        super().write_bytes(key, data)

    def delete(self, key: str) -> None:
        if not self.dead:
            self._change()
            super().delete(key)

    def _change(self) -> None:
        if self.left == 0:
            self.dead = True
            raise Killed
        self.left -= 1
