"""Store and find the model contract (features, label, ML task) and the profile of a model version.

If TrainOperator trained a version, the files of this version contain the contract and the profile. The files of a
foreign version (a version that TrainOperator did not train) cannot be changed. For a foreign version, EvaluateOperator
therefore writes the contract and the profile to the artifact store. The file is immutable, and its name is the hash of
its content::

    models/MODEL/VERSION/SHA256.json

A tag of the version in MLflow names the valid file. Before the version is first promoted, each evaluation sets the tag.
Later, the tag changes only when the version is promoted again (:mod:`airflow_mlops.registry.aliases`). Therefore only a
promotion changes the contract and the profile of a champion.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelCorruptError, ModelFormatError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contract_file import CONTRACT_FILE, PROFILE_FILE, read_contract
from airflow_mlops.registry import signatures
from airflow_mlops.registry.aliases import COMPARED_TAG, CONTRACT_TAG, SINCE_TAG
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import require_unchanged
from airflow_mlops.registry.ledger import Ledger, folder_name
from airflow_mlops.registry.reader import Reader
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.fairness import FairnessRates

if TYPE_CHECKING:
    from mlflow import MlflowClient


class VersionContract(Model):
    """The model contract (features, label, ML task) and the profile of a model version.

    :param contract: the model contract
    :param profile: an :class:`airflow_mlops.profiles.profile.ModelProfile` as JSON; ``None`` if no profile was stored
    :param elsewhere: whether EvaluateOperator wrote the contract and the profile to the artifact store, because the
        files of the version do not contain them
    :param compared: number of models from which the version was selected on the held-out rows of ``contract.metrics``
    :param fairness: the rates of groups that the gates measured in the evaluation by which the version was promoted
    """

    contract: ModelContract
    profile: dict[str, Any] | None = None
    elsewhere: bool = False
    compared: int = Field(default=1, ge=1)
    fairness: list[FairnessRates] = Field(default_factory=list)


def write(
    client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, contract: ModelContract, profile: dict[str, Any]
) -> str:
    """Store the model contract and the profile of a version that TrainOperator did not train, after an evaluation.

    The version's tag in MLflow is set to the new file. A tag that a promotion has set is kept while its file exists.

    :param client: client of the MLflow server
    :param store: the artifact store
    :param ref: the foreign version
    :param contract: the model contract (features, label, ML task)
    :param profile: a :class:`airflow_mlops.profiles.profile.ModelProfile` as JSON
    :return: the SHA-256 hash of the file, which is also the file's name
    """
    found = VersionContract(contract=contract, profile=profile, elsewhere=True).model_dump(
        mode="json", exclude={"compared", "fairness"}
    )
    return put(
        client, store, ref, json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    )


def put(client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, data: bytes) -> str:
    """Store the contract and the profile of a foreign version in a file, and set its tag as :func:`write` does.

    :param client: client of the MLflow server
    :param store: the artifact store
    :param ref: the foreign version
    :param data: the content of the file
    :return: the SHA-256 hash of the file, which is also the file's name
    """
    digest = hashlib.sha256(data).hexdigest()
    store.write_bytes(_key(ref, digest), data)
    with registry_errors(f"{ref} cannot be tagged"):
        tags = client.get_model_version(ref.model, str(ref.version)).tags
        promoted_by = tags.get(CONTRACT_TAG) if SINCE_TAG in tags else None
        if promoted_by is None or not store.exists(_key(ref, promoted_by)):
            client.set_model_version_tag(ref.model, str(ref.version), CONTRACT_TAG, digest)
    return digest


def read(
    client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, ledger: Ledger | None = None
) -> VersionContract:
    """Read the model contract and the profile of ``ref``, without downloading the model.

    If the ledger records a promotion of the version, the contract and the profile must be unchanged since then. There is
    one exception: if TrainOperator did not train the version, and its promoted contract was deleted, the contract named
    by the version's tag is accepted.

    :param ledger: the ledger of the model, if the caller has read it before; by default, this function reads the ledger
    :raises ModelCorruptError: the contract or the profile was changed after the promotion
    :raises ModelFormatError: the version has no contract, or the contract cannot be read
    :raises RegistryError: the version or its files no longer exist
    """
    with registry_errors(f"The contract of {ref} cannot be read"):
        tags = client.get_model_version(ref.model, str(ref.version)).tags
    digest = tags.get(CONTRACT_TAG)
    promotion = (ledger or Ledger(store, ref.model)).promotion(ref.version)
    promoted = promotion.contract_sha256 if promotion is not None else None
    if promotion is not None and CONTRACT_FILE in promotion.files:
        # The contract is one of the promoted files. A tag in MLflow must not replace it.
        digest = None
    if promoted is not None and digest != promoted and (signatures.required() or store.exists(_key(ref, promoted))):
        raise ModelCorruptError(
            f"The tag {CONTRACT_TAG} of {ref} in MLflow names another contract than the one that was promoted. Set the tag "
            f"to {promoted}."
        )
    found = _from_evaluation(store, ref, digest) if digest else _from_training(client, ref, promotion)
    if found is None:
        raise ModelFormatError(
            f"{ref} has no model contract (features, label, ML task), because TrainOperator did not train it and the "
            f"artifact store {store.url} contains no evaluation of it. Evaluate it with EvaluateOperator and promote it."
        )
    return found.model_copy(
        update={"compared": int(tags.get(COMPARED_TAG, 1)), "fairness": _fairness(promotion) if promotion else []}
    )


def _fairness(promotion: Entry) -> list[FairnessRates]:
    """Return the rates that the gates measured. The gates of a refit measured the version before the refit."""
    judged = promotion.refit.judged if promotion.refit is not None else promotion.champion
    gates = [gate for item in promotion.candidates if item.candidate == judged for gate in item.gates]
    return [gate.fairness for gate in gates if gate.fairness is not None]


def digest(client: MlflowClient, ref: ModelVersionRef) -> str | None:
    """Return the SHA-256 of the valid contract of a foreign version, from its tag in MLflow.

    :param client: client of the MLflow server
    :param ref: the model version
    :return: the hash; ``None`` for a version that is not foreign, or that was never evaluated
    :raises RegistryError: MLflow cannot be used
    """
    with registry_errors(f"The contract of {ref} cannot be read"):
        found: str | None = client.get_model_version(ref.model, str(ref.version)).tags.get(CONTRACT_TAG)
    return found


def content(store: ArtifactStore, ref: ModelVersionRef, digest: str) -> bytes | None:
    """Return the stored contract and profile of a version that TrainOperator did not train; ``None`` if there are none.

    :param store: the artifact store
    :param ref: the foreign version
    :param digest: the SHA-256 hash of the file
    :raises ModelFormatError: the file was changed
    """
    key = _key(ref, digest)
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelFormatError(
            f"The model contract of {ref} was changed after it was written. Restore {store.url_of(key)} from a backup."
        )
    return data


def _from_evaluation(store: ArtifactStore, ref: ModelVersionRef, digest: str) -> VersionContract | None:
    data = content(store, ref, digest)
    return VersionContract.model_validate_json(data) if data is not None else None


def _from_training(client: MlflowClient, ref: ModelVersionRef, promotion: Entry | None) -> VersionContract | None:
    import mlflow

    reader: object = client
    if isinstance(reader, Reader):
        # The functions of the module ``mlflow`` use the server and the credentials of the last call of ``connect``.
        client = reader.full()
    tracking_uri = client.tracking_uri

    uri = f"models:/{ref.model}/{ref.version}"
    with registry_errors(f"The contract of {ref} cannot be read"), temporary_folder("contract") as temporary:
        # A failed download alone does not show whether the file is missing or the server is down, so list the files
        # first.
        files = mlflow.artifacts.list_artifacts(uri, tracking_uri=tracking_uri)
        folder = CONTRACT_FILE.partition("/")[0]
        if all(item.path != folder for item in files):
            return None
        mlflow.artifacts.download_artifacts(f"{uri}/{folder}", dst_path=str(temporary), tracking_uri=tracking_uri)
        if promotion is not None:
            require_unchanged(ref, promotion, temporary, CONTRACT_FILE, PROFILE_FILE)
        profile = temporary / PROFILE_FILE
        try:
            return VersionContract(
                contract=read_contract(temporary),
                profile=json.loads(profile.read_bytes()) if profile.exists() else None,
            )
        except ValueError as error:
            raise ModelFormatError(
                f"The file {PROFILE_FILE} of {ref} is not valid JSON: {error}. Train the model again."
            ) from None


def _key(ref: ModelVersionRef, digest: str) -> str:
    return f"models/{folder_name(ref.model)}/{ref.version}/{folder_name(digest)}.json"
