"""Check the files of a champion against the hashes in the ledger.

Anyone who can write to MLflow can change the files of a version after its evaluation and promotion. Therefore the
evaluation computes the SHA-256 of each file of the version that it measures. The ledger entry of the promotion contains
these hashes, and scoring refuses files that differ. Entries of earlier releases have no hashes, and their champions are
not checked.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import ModelCorruptError
from airflow_mlops.core.fingerprints import file_sha256
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry import run_files, signatures
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import CARD_FILES, EVALUATION_FOLDER
from airflow_mlops.registry.presence import require_ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.versions import champion, download, download_into

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow writes this file, which names the version, while it downloads a version.
_WRITTEN_BY_MLFLOW = "registered_model_meta"
_ATTEMPTS = 3


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a downloaded version, by its path in ``folder``."""
    return {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / _WRITTEN_BY_MLFLOW
    }


def card_hashes(client: MlflowClient, ref: ModelVersionRef) -> dict[str, str]:
    """Return the SHA-256 of the verdict and the model card in the version's MLflow run, by name.

    :return: ``{}`` if the version has no run, or the run has no evaluation
    :raises RegistryError: MLflow cannot be used
    """
    if not ref.run_id:
        return {}
    with registry_errors(f"The model card of {ref} cannot be read"):
        stored = run_files.paths(client, ref.run_id, EVALUATION_FOLDER)
        return {
            name: hashlib.sha256(run_files.read(client, ref.run_id, path)).hexdigest()
            for name in CARD_FILES
            if (path := f"{EVALUATION_FOLDER}/{name}") in stored
        }


def download_unchanged(client: MlflowClient, ref: ModelVersionRef, promotion: Entry | None) -> Path:
    """Download the files of a version, and check them against the ledger.

    A downloaded folder that differs is removed and downloaded again, because the files in MLflow may have been
    restored since.

    :param promotion: the entry that made the version champion; ``None`` if the ledger has no such entry
    :raises ModelCorruptError: a file was changed, added or removed after the promotion
    :raises RegistryError: the version or its files do not exist any more
    """
    if promotion is None or not promotion.files:
        return download(client, ref)
    found = None
    for _ in range(_ATTEMPTS):
        folder = download(client, ref)
        # Another task may remove the folder at the same time, because it has found the same difference.
        with suppress(FileNotFoundError):
            found = difference(promotion.files, file_hashes(folder))
            if found is None:
                return folder
            # Another task may read the folder at this time, so it is moved before it is deleted.
            removed = folder.with_name(f".{uuid.uuid4().hex}")
            folder.rename(removed)
            shutil.rmtree(removed, ignore_errors=True)
    raise _corrupt(ref, promotion, found or "its files cannot be downloaded")


def download_promoted(client: MlflowClient, store: ArtifactStore, ref: ModelVersionRef) -> Path:
    """Download the files of a version, and check them if the ledger records a promotion of the version.

    :param store: artifact store with the ledger
    :raises ModelCorruptError: a file was changed, added or removed after the promotion
    :raises RegistryError: the version or its files do not exist any more
    :raises StoreError: the store does not have the ledger, for example because its file system is not mounted
    """
    ledger = Ledger(store, ref.model)
    promotion = ledger.promotion(ref.version)
    if promotion is None:
        require_ledger(client, ledger, ref)
    return download_unchanged(client, ref, promotion)


def require_promoted(store: ArtifactStore, ref: ModelVersionRef) -> None:
    """If signatures are required, check that the champion has a signed promotion that contains file hashes.

    :param store: artifact store with the ledger
    :param ref: the champion, according to the alias in MLflow
    :raises ModelCorruptError: the version was not promoted, or its promotion has no valid signature or no hashes
    :raises RegistryError: a file of the ledger is not an entry, or an entry is missing
    """
    if signatures.required():
        promotion = Ledger(store, ref.model).promotion(ref.version)
        if promotion is None or not promotion.files:
            why = (
                "the ledger has no promotion of it" if promotion is None else "its promotion has no hashes of its files"
            )
            raise ModelCorruptError(
                f"The champion {ref} has no signature, because {why}. Evaluate and promote the version, or set the alias in MLflow to "
                "a version whose promotion was signed."
            )


def require_unchanged(ref: ModelVersionRef, promotion: Entry, folder: Path, *names: str) -> None:
    """Check some downloaded files of a version against the ledger.

    Nothing is checked if the entry of the promotion has no hashes, as in earlier releases.

    :param promotion: the entry that made the version champion
    :param folder: folder with the files
    :param names: paths of the files in ``folder``, which need not exist
    :raises ModelCorruptError: a file was changed, added or removed after the promotion
    """
    if promotion.files:
        then = {name: promotion.files[name] for name in names if name in promotion.files}
        now = {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}
        if (found := difference(then, now)) is not None:
            raise _corrupt(ref, promotion, found)


def verify_champion(client: MlflowClient, model: str, entries: Sequence[Entry]) -> str:
    """Check the files and the model card of the current champion in MLflow against the ledger.

    The files are downloaded again for this check.

    :param entries: all entries of the ledger, oldest first
    :return: one sentence about the check
    :raises ModelCorruptError: a file was changed, added or removed after the promotion
    :raises RegistryError: MLflow cannot be used, or the files of the champion do not exist any more
    """
    ref = champion(client, model)
    if ref is None:
        return "The model has no champion in MLflow."
    promotion = next((entry for entry in reversed(entries) if entry.promotes(ref.version)), None)
    if promotion is None:
        return f"The files of the champion v{ref.version} were not checked, because the ledger has no promotion of it."
    if not promotion.files:
        return f"The files of the champion v{ref.version} were not checked, because ledger entry {promotion.seq} contains no file hashes."
    with temporary_folder("model") as temporary:
        folder = temporary / "model"
        download_into(client, ref, folder)
        found = difference(promotion.files, file_hashes(folder))
    if found is None and promotion.card:
        found = difference(promotion.card, card_hashes(client, ref))
    if found is not None:
        raise _corrupt(ref, promotion, found)
    return f"The files of the champion v{ref.version} have not changed since the promotion."


def difference(then: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return the first difference between two sets of hashes as a clause; ``None`` if they are equal."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            change = "was added" if name not in then else "was removed" if name not in now else "was changed"
            return f"its file {name} {change}"
    return None


def _corrupt(ref: ModelVersionRef, promotion: Entry, found: str) -> ModelCorruptError:
    return ModelCorruptError(
        f"The files of {ref} in MLflow differ from those that were promoted (ledger entry {promotion.seq}): {found}. Restore the "
        "file, or roll back to another version."
    )
