"""Load a champion, and check that its files have not changed since its promotion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contract_file import has_contract
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.scorer import Scorer
from airflow_mlops.registry.integrity import download_unchanged, require_promoted
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.presence import require_ledger

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.models.attributions import Explainer


def load_champion(
    client: MlflowClient,
    store: ArtifactStore,
    ref: ModelVersionRef,
    progress: Callable[[str], None],
    *,
    allow_pyfunc: bool,
    named: bool,
) -> Scorer:
    """Load a model version, and check that its files have not changed since its promotion.

    A version that TrainOperator trained is loaded from its ONNX export. Any other version is loaded with its MLflow
    flavour, and must have been evaluated before.

    :param client: client of the MLflow server
    :param store: the artifact store with the ledger
    :param ref: the model version
    :param progress: function that logs a message about files that were not checked
    :param named: whether a person named the version, so that it need not be the champion
    :param allow_pyfunc: whether a version without an ONNX export, whose loading runs stored code, may be loaded
    :raises ModelCorruptError: the files or the contract of the version were changed after its promotion
    :raises ModelFormatError: the version cannot be loaded, was never evaluated, or would run code while
        ``allow_pyfunc`` is ``False``
    """
    folder = download_champion(client, store, ref, progress, named=named)
    if has_contract(folder):
        return OnnxModel.load(folder)
    from airflow_mlops.models import contracts
    from airflow_mlops.models.pyfunc import scorer as pyfunc_model

    contract = contracts.read(client, store, ref).contract
    return pyfunc_model.load_measured(folder, str(ref), contract, allow_pyfunc=allow_pyfunc)


def load_explained_champion(
    client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, progress: Callable[[str], None], *, named: bool
) -> tuple[OnnxModel, Explainer]:
    """Load a model version as :func:`load_champion` does, together with its explainer.

    :param client: client of the MLflow server
    :param store: the artifact store with the ledger
    :param ref: the model version
    :param progress: function that logs a message about files that were not checked
    :param named: whether a person named the version, so that it need not be the champion
    :raises ModelCorruptError: the files of the version were changed after its promotion
    :raises ModelFormatError: there are no exact attributions for the version, or it cannot be loaded
    """
    from airflow_mlops.models import attributions

    folder = download_champion(client, store, ref, progress, named=named)
    if not has_contract(folder):
        raise attributions.refusal(str(ref))
    model = OnnxModel.load(folder)
    return model, attributions.load(folder, model.contract, str(ref))


def download_champion(
    client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, progress: Callable[[str], None], *, named: bool
) -> Path:
    """Download the files of a model version, and check them against the ledger's entry of its promotion.

    :param client: client of the MLflow server
    :param store: the artifact store with the ledger
    :param ref: the model version
    :param progress: function that logs a message about files that were not checked
    :param named: whether a person named the version, so that it need not be the champion
    :raises ModelCorruptError: a file of the version was changed after its promotion, or signatures are required and the
        promotion of the champion was not signed
    :raises RegistryError: the version or its files no longer exist
    :raises StoreError: the store does not have the ledger, for example because its file system is not mounted
    """
    if not named:
        require_promoted(store, ref)
    ledger = Ledger(store, ref.model)
    promotion = ledger.promotion(ref.version)
    if promotion is None:
        require_ledger(client, ledger, ref)
    if promotion is None or not promotion.files:
        why = (
            "has no promotion of it"
            if promotion is None
            else "has no hashes of them, because an earlier release wrote it"
        )
        progress(f"The files of {ref} are not checked: the ledger {why}.")
    return download_unchanged(client, ref, promotion)
