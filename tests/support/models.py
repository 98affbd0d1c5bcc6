"""Decisions, scorings and reports of models, as an artifact store records them."""

from __future__ import annotations

import pyarrow as pa

from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.predictions.log import slot
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.drift.findings import Drift
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Decision
from tests.support import reports


def version(number: int, model: str = "delays") -> ModelVersionRef:
    return ModelVersionRef(model=model, version=number, run_id="")


def promote(store: ArtifactStore, number: int, model: str = "delays", **fields: object) -> None:
    ledger = Ledger(store, model)
    old = version(number - 1, model) if number > 1 else None
    provenance = Provenance(dag_id="train", run_id="r", task_id="promote", user="ann")
    decision = Decision(
        **{
            "decision": "promoted",
            "replaced": old,
            "champion": version(number, model),
            "reason": f"v{number} is better.",
            "provenance": provenance,
            **fields,
        }
    )
    ledger.record(f"{model}-{number}-{decision.decision}", lambda _: decision)


def score(
    store: ArtifactStore, window: str, number: int = 1, name: str = "delays_predictions", model: str = "delays"
) -> None:
    span = Window.model_validate(window)
    with DatasetWriter(store, name) as writer:
        writer.write(pa.table({"x": [1.0, 2.0]}))
        writer.commit(
            window=span,
            details={"model": model, "model_version": number},
            provenance=Provenance(dag_id="score", run_id="r", task_id="t"),
            slots=[slot(version(number, model), span, [], None)],
        )


def publish_drift(store: ArtifactStore, month: str, effect: float, *others: Drift) -> str:
    key = reports.publish(store, month)
    feature = Drift(column="wind", kind="numeric", effect=effect, drifted=True, importance=0.5)
    features = [item.model_dump(mode="json") for item in (feature, *others)]
    store.write_json(key, {**store.read_json(key), "features": features})
    return key
