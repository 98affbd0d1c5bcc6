"""The artifact store with the ledgers of a registry."""

from __future__ import annotations

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.store import ArtifactStore


def store_of(info: ConnectionInfo, default: str) -> ArtifactStore:
    """Open the artifact store with the ledgers of a registry: the extra field ``artifacts`` of its connection.

    :param info: the Airflow connection to the registry
    :param default: URL of the store if the connection does not have this field
    :raises SpecError: the field is not text, or the URL contains credentials
    :raises StoreError: the store cannot be opened
    """
    url = info.extra.get("artifacts") or default
    if not isinstance(url, str):
        raise SpecError(
            f"The extra field 'artifacts' of connection {info.conn_id!r} is not text. Set it to the URL of an artifact store."
        )
    return ArtifactStore(url)
