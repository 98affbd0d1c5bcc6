"""Champions that predict the labelled rows of a window: the present champion, and the version that it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models import contracts
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.cross_fitting import Champion
from airflow_mlops.registry import integrity
from airflow_mlops.registry.ledger import Ledger

if TYPE_CHECKING:
    from mlflow import MlflowClient


def predicting(ref: ModelVersionRef, contract: ModelContract, ledger: Ledger, client: MlflowClient) -> Champion:
    """Return a version that is downloaded when it first predicts.

    :param contract: model contract of the version
    """
    loaded: list[OnnxModel] = []

    def predict(rows: Any) -> Any:
        if not loaded:
            promotion = ledger.promotion(ref.version)
            loaded.append(OnnxModel.load(integrity.download_unchanged(client, ref, promotion)))
        return loaded[0].predict(rows)

    return Champion(ref, contract, predict)


def replaced(
    present: ModelVersionRef,
    contract: ModelContract,
    compared: Sequence[Comparison],
    store: ArtifactStore,
    ledger: Ledger,
    client: MlflowClient,
) -> Champion | None:
    """Return the version that the present champion replaced, if the present champion is compared for the first time.

    :param contract: model contract of the present champion
    :param compared: the comparisons of earlier windows, ordered by time
    :return: ``None`` if the present champion has been compared before, if no earlier version has been compared, or after
        a rollback, because nothing was trained
    :raises UnmeasurableError: the replaced version predicts another label, or from other features
    """
    if not compared or any(item.champion.version == present.version for item in compared):
        return None
    ref = compared[-1].champion
    if ref.version > present.version:
        return None
    earlier = contracts.read(client, store, ref, ledger).contract
    if (earlier.task, earlier.label) != (contract.task, contract.label):
        raise UnmeasurableError(f"{ref} has another task or label")
    absent = {feature.name for feature in earlier.features} - {feature.name for feature in contract.features}
    if absent:
        raise UnmeasurableError(f"{ref} has the feature {min(absent)!r}, which the champion does not have")
    return predicting(ref, earlier, ledger, client)
