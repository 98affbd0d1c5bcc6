"""The numbers of requests that a canary and the champion have failed to answer, counted by servers.

A failed request has no prediction, so it is not in the log. Each server writes its counts to a separate file in the
artifact store, and replaces the file when the counts change.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import folder_name

# The clocks of servers and workers may differ by this time.
_SKEW = timedelta(minutes=1)


class ShareCounts(Model):
    """Counts of the requests while the canary had the same share of the traffic.

    :param canary: number of requests to the canary
    :param canary_failed: number of them that it failed to answer
    :param champion: number of requests to the champion
    :param champion_failed: number of them that it failed to answer
    """

    canary: int = 0
    canary_failed: int = 0
    champion: int = 0
    champion_failed: int = 0


class ServerCounts(Model):
    """The counts of one server for a canary and a champion.

    :param server: name of the file, which is different for each server
    :param canary: number of the canary's version
    :param champion: number of the champion's version
    :param began: time of the first counted request
    :param shares: the counts for each share that the canary had
    """

    server: str
    canary: int
    champion: int
    began: AwareDatetime
    shares: dict[float, ShareCounts] = Field(default_factory=dict)


def write(store: ArtifactStore, model: str, counts: ServerCounts) -> None:
    """Write the counts of a server.

    :raises StoreError: the store cannot be written
    """
    store.write_bytes(f"{_folder(model, counts.canary)}/{counts.server}.json", counts.model_dump_json().encode())


def total(
    store: ArtifactStore, canary: ModelVersionRef, champion: ModelVersionRef, since: datetime
) -> dict[float, ShareCounts]:
    """Return the sums of the counts of all servers for each share of a canary.

    :param canary: the canary
    :param champion: the champion with which it is compared
    :param since: start of the rollout. Counts that began more than a minute earlier are left out. The clocks of the
        servers may differ by this minute
    :raises StoreError: the store cannot be read
    """
    sums: dict[float, ShareCounts] = {}
    for content in store.read_many(store.find(_folder(canary.model, canary.version))).values():
        found = ServerCounts.model_validate_json(content)
        if found.champion == champion.version and found.began >= since - _SKEW:
            for share, counts in found.shares.items():
                before = sums.get(share, ShareCounts())
                sums[share] = ShareCounts(
                    canary=before.canary + counts.canary,
                    canary_failed=before.canary_failed + counts.canary_failed,
                    champion=before.champion + counts.champion,
                    champion_failed=before.champion_failed + counts.champion_failed,
                )
    return sums


def _folder(model: str, version: int) -> str:
    return f"canaries/{folder_name(model)}/v{version}"
