"""The contract and the profile of a version, wherever it comes from.

Those of a version that TrainOperator made lie in its own files. The files of a version from elsewhere cannot be added to, so
what an evaluation found out about it is kept in the artifact store, in a file that is named by its hash and never changed::

    models/MODEL/VERSION/SHA256.json

A tag of the version in MLflow says which one counts: that of the evaluation by which it was last promoted
(:mod:`airflow_mlops.registry.aliases`), and of its last evaluation as long as it never was. So what a champion is scored
with, and compared with, changes by a promotion and by nothing else.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.base import Model
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.onnx.scorer import CONTRACT_FILE, PROFILE_FILE, read_contract
from airflow_mlops.registry.aliases import CONTRACT_TAG, SINCE_TAG
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import folder_name

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Known(Model):
    """What is known of a version.

    :param profile: an :class:`airflow_mlops.profiles.profile.ModelProfile` as JSON; ``None`` where nobody stored one
    :param elsewhere: whether evaluation found it out, as the version does not say it itself
    """

    contract: ModelContract
    profile: dict[str, Any] | None = None
    elsewhere: bool = False


def keep(
    client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef, contract: ModelContract, profile: dict[str, Any]
) -> str:
    """Keep what an evaluation found out about a version from elsewhere.

    :return: the SHA-256 that names it
    """
    found = Known(contract=contract, profile=profile, elsewhere=True).model_dump(mode="json")
    data = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    digest = hashlib.sha256(data).hexdigest()
    store.write_bytes(_key(ref, digest), data)
    with registry_errors(f"{ref} cannot be tagged"):
        tags = client.get_model_version(ref.model, str(ref.version)).tags
        promoted_by = tags.get(CONTRACT_TAG) if SINCE_TAG in tags else None
        if promoted_by is None or not store.exists(_key(ref, promoted_by)):
            client.set_model_version_tag(ref.model, str(ref.version), CONTRACT_TAG, digest)
    return digest


def known(client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef) -> Known:
    """What is known of ``ref``. The model itself is not fetched.

    :raises ModelFormatError: nothing is known of it, or what is there cannot be read
    :raises RegistryError: the version or its files are gone
    """
    with registry_errors(f"The contract of {ref} cannot be read"):
        digest = client.get_model_version(ref.model, str(ref.version)).tags.get(CONTRACT_TAG)
    found = _of_evaluation(store, ref, digest) if digest else _of_training(ref, client.tracking_uri)
    if found is None:
        raise ModelFormatError(
            f"{ref} was not made by TrainOperator and no evaluation of it is in the artifact store {store.url}, so "
            "nobody knows what it predicts: evaluate it with EvaluateOperator and promote it."
        )
    return found


def _of_evaluation(store: ArtifactStore, ref: ModelVersionRef, digest: str) -> Known | None:
    key = _key(ref, digest)
    try:
        data = store.read_bytes(key)
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ModelFormatError(f"The contract of {ref} was changed: restore {store.url_of(key)} from a backup.")
    return Known.model_validate_json(data)


def _of_training(ref: ModelVersionRef, tracking_uri: str) -> Known | None:
    import mlflow

    uri = f"models:/{ref.model}/{ref.version}"
    with registry_errors(f"The contract of {ref} cannot be read"), tempfile.TemporaryDirectory() as temporary:
        # What is not there cannot be told from a server that is not well, unless one looks first.
        files = mlflow.artifacts.list_artifacts(uri, tracking_uri=tracking_uri)
        folder = CONTRACT_FILE.partition("/")[0]
        if all(item.path != folder for item in files):
            return None
        mlflow.artifacts.download_artifacts(f"{uri}/{folder}", dst_path=temporary, tracking_uri=tracking_uri)
        profile = Path(temporary) / PROFILE_FILE
        try:
            return Known(
                contract=read_contract(Path(temporary)),
                profile=json.loads(profile.read_bytes()) if profile.exists() else None,
            )
        except ValueError as error:
            raise ModelFormatError(f"{PROFILE_FILE} of {ref} is not a profile: {error}.") from None


def _key(ref: ModelVersionRef, digest: str) -> str:
    return f"models/{folder_name(ref.model)}/{ref.version}/{folder_name(digest)}.json"
