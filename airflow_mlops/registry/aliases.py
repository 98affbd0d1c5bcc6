"""Moving the champion: the ledger says what was decided, and MLflow's aliases follow it.

The entry is written first. A task that dies before the alias is moved has its move finished by its own retry, or by
whichever task decides next; so there is no move without an entry, and no entry that stays without its move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import RegistryError, RegistryUnavailableError
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Entry
from airflow_mlops.registry.models import CHAMPION
from airflow_mlops.specs.base import ModelVersionRef

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS = "previous_champion"
SINCE_TAG, REPLACED_TAG, LEDGER_TAG = "mlops.champion_since", "mlops.replaced", "mlops.ledger_entry"


def carry_out(client: MlflowClient, entries: Sequence[Entry]) -> None:
    """Point the alias ``champion`` where the last move among ``entries`` says, unless that was done before.

    The new champion is tagged with the time, what it replaced and the entry's number; the alias
    ``previous_champion`` keeps the replaced version. Earlier moves are done: whoever decides carries out first
    what was decided before.

    :raises RegistryError: the version is gone, or MLflow refuses
    """
    move = next((entry for entry in reversed(entries) if entry.moves), None)
    if move is None or move.champion is None:
        return
    model, version = move.champion.model, str(move.champion.version)
    with registry_errors(f"{move.champion} cannot be made champion"):
        # This tag is set last: while it is missing, the move is not finished. An alias that a person moved
        # afterwards stays where it was put.
        if client.get_model_version(model, version).tags.get(SINCE_TAG) == move.time.isoformat():
            return
        client.set_registered_model_alias(model, CHAMPION, version)
        if move.replaced is not None:
            client.set_registered_model_alias(model, PREVIOUS, str(move.replaced.version))
        client.set_model_version_tag(model, version, LEDGER_TAG, str(move.seq))
        client.set_model_version_tag(model, version, REPLACED_TAG, str(move.replaced.version) if move.replaced else "")
        client.set_model_version_tag(model, version, SINCE_TAG, move.time.isoformat())


def settle(client: MlflowClient, entries: Sequence[Entry]) -> None:
    """Finish the last move, if the task that wrote it down died before it was carried out."""
    try:
        carry_out(client, entries)
    except RegistryUnavailableError:
        raise
    except RegistryError:
        # Somebody deleted that version since; what is champion now is for the caller to see.
        return


def former_champions(entries: Sequence[Entry]) -> list[int]:
    """Every version that the ledger knows as champion, present one included."""
    versions: set[int] = set()
    for entry in entries:
        if entry.moves:
            versions.update(ref.version for ref in (entry.champion, entry.replaced) if ref is not None)
    return sorted(versions)


def champion_before(entries: Sequence[Entry], now: ModelVersionRef) -> ModelVersionRef | None:
    """What ``now`` replaced when it was last promoted; ``None`` if nothing, or if the ledger does not know.

    A rollback is not what counts: after v3 to v2, the champion before v2 is v1 and not v3.
    """
    for entry in reversed(entries):
        if entry.decision == "promoted" and entry.champion is not None and entry.champion.version == now.version:
            return entry.replaced
    return None
