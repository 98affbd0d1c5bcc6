"""Moving the champion: the ledger says what was decided, and MLflow's aliases follow it.

The entry is written first. A task that dies before the alias is moved has its move finished by its own retry, or by
whichever task decides next; so there is no move without an entry, and no entry that stays without its move. A task that
was held up while others decided may put the alias back to where its own move says: it looks at the ledger afterwards, and
marks the model before, so that the next one mends it if this one dies there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.ledger import Entry, Ledger
from airflow_mlops.registry.versions import CHAMPION, champion

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREVIOUS = "previous_champion"
SINCE_TAG, REPLACED_TAG = "mlops.champion_since", "mlops.replaced"
LEDGER_TAG, HASH_TAG = "mlops.ledger_entry", "mlops.ledger_sha256"
# Which contract counts, of a version that does not bring one (:mod:`airflow_mlops.models.contracts`).
CONTRACT_TAG = "mlops.contract"
# On the registered model, while its aliases are being moved: the number of the entry that says so.
MOVING_TAG = "mlops.moving"
_MENDING_SECONDS = 1.0
# What SQLAlchemy's drivers call a row that is there already, and how often in a row that may happen.
_LOST_RACES, _RACES = ("IntegrityError", "UniqueViolation"), 5


def carry_out(client: MlflowClient, ledger: Ledger) -> None:
    """Point the alias ``champion`` where the ledger's last move says, unless that was done before.

    The new champion is tagged with the time, what it replaced, and the entry's number and SHA-256; the alias
    ``previous_champion`` keeps the replaced version. Earlier moves are done: whoever decides carries out first
    what was decided before.

    :raises RegistryError: the version is gone, or MLflow refuses
    """
    for left in reversed(range(_RACES)):
        try:
            _carry_out(client, ledger)
            return
        except RegistryError as error:
            # MLflow inserts what it does not find, so of two that do so at once one is refused. Now it is there.
            if not left or not any(name in str(error) for name in _LOST_RACES):
                raise


def _carry_out(client: MlflowClient, ledger: Ledger) -> None:
    # Read anew, however short ago that was: a move that is no longer the last one must not be carried out.
    move = last_move(ledger.entries())
    if move is None or move.champion is None:
        return
    with registry_errors(f"{move.champion} cannot be made champion"):
        # An alias that a person moved after the move was finished stays where it was put.
        if not is_unfinished(client, move):
            return
        client.set_registered_model_tag(ledger.model, MOVING_TAG, str(move.seq))
        while True:
            _move(client, ledger.model, move)
            newest = last_move(ledger.entries())
            if newest is None or newest.seq == move.seq:
                break
            # Others decided in the meantime, and may have moved the alias before this task did.
            move = newest
        client.delete_registered_model_tag(ledger.model, MOVING_TAG)


def _move(client: MlflowClient, model: str, move: Entry) -> None:
    assert move.champion is not None
    version = str(move.champion.version)
    client.set_registered_model_alias(model, CHAMPION, version)
    if move.replaced is not None:
        client.set_registered_model_alias(model, PREVIOUS, str(move.replaced.version))
    tags = {
        LEDGER_TAG: str(move.seq),
        HASH_TAG: move.sha256,
        REPLACED_TAG: str(move.replaced.version) if move.replaced else "",
        **_contract(move),
        # Last: while it is missing, the move is not finished.
        SINCE_TAG: move.time.isoformat(),
    }
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)


def _contract(move: Entry) -> dict[str, str]:
    """A rollback judges nothing, so what the version was promoted with is what it goes back to."""
    found = next((item.contract_sha256 for item in move.candidates if item.candidate == move.champion), None)
    return {CONTRACT_TAG: found} if found else {}


def last_move(entries: Sequence[Entry]) -> Entry | None:
    """The last promotion or rollback."""
    return next((entry for entry in reversed(entries) if entry.moves), None)


def is_unfinished(client: MlflowClient, move: Entry) -> bool:
    """Whether a task died, or is at work, between writing ``move`` down and moving the aliases."""
    assert move.champion is not None
    model, version = move.champion.model, str(move.champion.version)
    since = client.get_model_version(model, version).tags.get(SINCE_TAG)
    return since != move.time.isoformat() or MOVING_TAG in client.get_registered_model(model).tags


def settled_champion(client: MlflowClient, ledger: Ledger, entries: Sequence[Entry]) -> ModelVersionRef | None:
    """The champion, after the last move was finished, if the task that wrote it down died before it was carried out."""
    _settle(client, ledger)
    now = champion(client, ledger.model)
    move = last_move(entries)
    if move is None or move.champion is None or now == move.champion:
        return now
    # A person moved the alias; or a task that was held up has just put it back, and is about to mend that.
    time.sleep(_MENDING_SECONDS)
    _settle(client, ledger)
    return champion(client, ledger.model)


def _settle(client: MlflowClient, ledger: Ledger) -> None:
    try:
        carry_out(client, ledger)
    except RegistryUnavailableError:
        raise
    except RegistryError:
        # Somebody deleted that version since; what is champion now is for the caller to see.
        return


def verify(client: MlflowClient, ledger: Ledger) -> list[Entry]:
    """The ledger's entries, after MLflow was asked as well whether they are all there and unchanged.

    The chain of hashes does not show that its last entries were changed or cut off; MLflow keeps the hash of each move.

    :raises RegistryError: an entry was changed, removed or inserted; it names the entry and its file
    """
    entries = ledger.entries()
    with registry_errors(f"The versions of {ledger.model!r} cannot be read"):
        versions = client.search_model_versions(f"name = '{ledger.model}'")
    for version in versions:
        seq, known = version.tags.get(LEDGER_TAG), version.tags.get(HASH_TAG)
        if seq is None or known is None:
            continue
        entry = entries[int(seq) - 1] if int(seq) <= len(entries) else None
        if entry is None or entry.sha256 != known:
            raise ledger.broken(
                f"entry {seq}, {ledger.url(int(seq))}, {'is missing' if entry is None else 'was changed'}, "
                f"as MLflow knows of v{version.version}"
            )
    return entries


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
