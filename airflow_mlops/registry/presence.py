"""Check that the artifact store is the one with the ledger of a model.

The folder of a file system that is not mounted is empty, and therefore looks like a new store. MLflow shows the
difference: a version that became champion has a tag with the number of its ledger entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.errors import StoreError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import LEDGER_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient


def require_ledger(client: MlflowClient, ledger: Ledger, ref: ModelVersionRef) -> None:
    """Check that the ledger has the entry that the tags of a version name.

    Callers check this if the ledger does not have the entry that they need.

    :param ref: the version. If it never became champion, it has no such tag, and nothing is checked
    :raises StoreError: the ledger has no such entry
    :raises RegistryError: the version does not exist any more
    """
    with registry_errors(f"{ref} is not in the MLflow registry"):
        entry = client.get_model_version(ref.model, str(ref.version)).tags.get(LEDGER_TAG, "")
    if entry.isdecimal() and not ledger.has(int(entry)):
        raise StoreError(
            f"The artifact store {ledger.store.url} does not have entry {entry} of the ledger of {ref.model!r}, which the tag "
            f"{LEDGER_TAG} of v{ref.version} in MLflow names. Mount the file system of the store, or correct the setting [mlops] artifacts. "
            f"If the ledger is lost, delete this tag."
        )
