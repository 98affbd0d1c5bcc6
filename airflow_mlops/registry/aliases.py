"""Move the aliases of the champion in MLflow to the version that the ledger names.

A task writes the ledger entry first and moves the aliases afterwards. If it crashes in between, its own retry or the next
decision moves them. Therefore every move has an entry, and every entry is carried out eventually.

A delayed task may overwrite a newer alias. It re-reads the ledger afterwards and repairs the alias; if it crashes first, the
next decision repairs it. It recognises the crash by a tag of the registered model, which is set before the aliases are moved
and removed at the end. If another task removes the tag in between, the crash goes unnoticed and the alias looks as if a person
had moved it; a rollback to the right version repairs it.
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
# The valid contract of a foreign version (:mod:`airflow_mlops.models.contracts`).
CONTRACT_TAG = "mlops.contract"
# Tag of the registered model while its aliases are being moved: the number of the ledger entry.
MOVING_TAG = "mlops.moving"
# Time that a delayed task needs to repair the alias.
_REPAIR_SECONDS = 1.0
# Errors of SQLAlchemy's drivers for a row that exists already, and the number of attempts.
_DUPLICATE_ROW, _ATTEMPTS = ("IntegrityError", "UniqueViolation"), 5


def carry_out(client: MlflowClient, ledger: Ledger) -> None:
    """Move the alias ``champion`` to the version of the ledger's last move, unless this was done before.

    The new champion gets tags with the time, the replaced version, and the number and SHA-256 of the entry. The alias
    ``previous_champion`` is set to the replaced version. Earlier moves are always complete, because every decision
    starts by carrying out the previous one.

    :raises RegistryError: the version does not exist any more, or MLflow refuses the change
    """
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            _carry_out(client, ledger)
            return
        except RegistryError as error:
            # MLflow inserts a row that it does not find. If two tasks do so at once, one insert fails, and the next
            # attempt finds the row.
            if not remaining or not any(name in str(error) for name in _DUPLICATE_ROW):
                raise


def _carry_out(client: MlflowClient, ledger: Ledger) -> None:
    # Re-read the ledger, because only the very last move must be carried out.
    move = last_move(ledger.entries())
    if move is None or move.champion is None:
        return
    with registry_errors(f"{move.champion} cannot be made champion"):
        # If a person moved the alias after this move was complete, it stays there.
        if not is_unfinished(client, move):
            return
        client.set_registered_model_tag(ledger.model, MOVING_TAG, str(move.seq))
        while True:
            _move(client, ledger.model, move)
            newest = last_move(ledger.entries())
            if newest is None or newest.seq == move.seq:
                break
            # Another task decided meanwhile, and this task may have overwritten its alias.
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
        # The last tag. As long as it is missing, the move is incomplete.
        SINCE_TAG: move.time.isoformat(),
    }
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)


def _contract(move: Entry) -> dict[str, str]:
    """The contract tag of a promoted foreign version. A rollback keeps the contract of the last promotion."""
    found = next((item.contract_sha256 for item in move.candidates if item.candidate == move.champion), None)
    return {CONTRACT_TAG: found} if found else {}


def last_move(entries: Sequence[Entry]) -> Entry | None:
    """The last promotion or rollback."""
    return next((entry for entry in reversed(entries) if entry.moves), None)


def is_unfinished(client: MlflowClient, move: Entry) -> bool:
    """Whether the aliases of ``move`` have not been moved completely: a task crashed, or is still running."""
    assert move.champion is not None
    model, version = move.champion.model, str(move.champion.version)
    since = client.get_model_version(model, version).tags.get(SINCE_TAG)
    return since != move.time.isoformat() or MOVING_TAG in client.get_registered_model(model).tags


def settled_champion(client: MlflowClient, ledger: Ledger, entries: Sequence[Entry]) -> ModelVersionRef | None:
    """The champion after the last move in the ledger has been completed."""
    _complete(client, ledger)
    now = champion(client, ledger.model)
    move = last_move(entries)
    if move is None or move.champion is None or now == move.champion:
        return now
    # Either a person moved the alias, or a delayed task has just overwritten it and will repair it.
    time.sleep(_REPAIR_SECONDS)
    _complete(client, ledger)
    return champion(client, ledger.model)


def _complete(client: MlflowClient, ledger: Ledger) -> None:
    try:
        carry_out(client, ledger)
    except RegistryUnavailableError:
        raise
    except RegistryError:
        # The version was deleted meanwhile. The caller looks up the present champion.
        return


def verify(client: MlflowClient, ledger: Ledger) -> list[Entry]:
    """The ledger's entries, after they were compared with the hashes in MLflow.

    The chain of hashes alone cannot show that the last entries were changed or removed, so MLflow keeps the hash of each
    move.

    :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
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
            raise ledger.tampered(
                f"entry {seq}, {ledger.url(int(seq))}, {'is missing' if entry is None else 'was changed'}, "
                f"according to the tags of v{version.version} in MLflow"
            )
    return entries


def former_champions(entries: Sequence[Entry]) -> list[int]:
    """All versions that are or were champion according to the ledger, sorted."""
    versions: set[int] = set()
    for entry in entries:
        if entry.moves:
            versions.update(ref.version for ref in (entry.champion, entry.replaced) if ref is not None)
    return sorted(versions)


def champion_before(entries: Sequence[Entry], now: ModelVersionRef) -> ModelVersionRef | None:
    """The version that ``now`` replaced when it was last promoted; ``None`` if there is none in the ledger.

    Rollbacks do not count: after a rollback from v3 to v2, the champion before v2 is v1 and not v3.
    """
    for entry in reversed(entries):
        if entry.decision == "promoted" and entry.champion is not None and entry.champion.version == now.version:
            return entry.replaced
    return None
