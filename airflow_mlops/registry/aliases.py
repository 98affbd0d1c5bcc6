"""Move the aliases of the champion in MLflow to the version that the ledger names.

A task writes the ledger entry first and moves the aliases afterwards. If the task crashes between these two actions,
its retry or the next decision moves the aliases. Therefore every alias move has a ledger entry, and every entry is
carried out eventually.

A delayed task may overwrite a newer alias. The delayed task re-reads the ledger afterwards and repairs the alias. If
the delayed task crashes before the repair, the next decision repairs the alias. The next decision recognises the crash
by a tag of the registered model. A task sets this tag before it moves the aliases, and removes the tag afterwards. If
another task removes the tag before the repair, the crash is not detected, and the alias seems to have been moved by a
person. A rollback to the right version then repairs the alias.

An entry may also record that a person moved the alias (:mod:`airflow_mlops.registry.outside_moves`). For such an entry,
only the tags are set. The alias is not moved, because MLflow already has this change, or a later one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from airflow_mlops.core.errors import RegistryError, RegistryUnavailableError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.client import is_missing, quoted, registry_errors
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.names import HASH_TAG, LEDGER_TAG
from airflow_mlops.registry.presence import require_ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.versions import CHAMPION, champion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger(__name__)

PREVIOUS = "previous_champion"
SINCE_TAG, REPLACED_TAG = "mlops.champion_since", "mlops.replaced"
# Tag of a foreign version (not trained by TrainOperator): the SHA-256 of its valid model contract
# (:mod:`airflow_mlops.models.contracts`).
CONTRACT_TAG = "mlops.contract"
# Tag of a version: the number of models among which evaluations chose on the held-out rows of its training set.
COMPARED_TAG = "mlops.compared"
# Tag of the registered model while its aliases are being moved: the number of the ledger entry.
MOVING_TAG = "mlops.moving"
# Maximum time, in seconds, that a delayed task needs to repair the alias.
_REPAIR_SECONDS = 1.0
# Names of the errors that SQLAlchemy and its drivers raise if a row already exists, and the number of attempts to set
# the aliases and tags after such an error.
_DUPLICATE_ROW, _ATTEMPTS = ("IntegrityError", "UniqueViolation"), 5


def carry_out(client: MlflowClient, ledger: Ledger) -> None:
    """Complete the last change of the champion in the ledger: set the aliases and tags in MLflow.

    Nothing is done if the aliases were already moved for this entry, or if a person moved the alias afterwards. The new
    champion gets tags with the time, the replaced version, and the number and SHA-256 of the entry. The alias
    ``previous_champion`` is set to the replaced version, and removed if that version was deleted. Earlier moves are
    always complete, because every decision first completes the previous decision.

    :raises RegistryError: the version does not exist any more, or MLflow refuses the change
    :raises RegistryUnavailableError: MLflow does not respond
    """
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            _carry_out(client, ledger)
            return
        except RegistryError as error:
            # MLflow inserts a row if it finds none. If two tasks insert at the same time, one insert fails, and the
            # next attempt finds the row.
            if not remaining or not any(name in str(error) for name in _DUPLICATE_ROW):
                raise


def _carry_out(client: MlflowClient, ledger: Ledger) -> None:
    # Re-read the ledger, because only the last change of the champion must be carried out.
    move = last_move(ledger.updated_entries())
    if move is None:
        return
    with registry_errors(f"The alias {CHAMPION!r} of {ledger.model!r} cannot be moved to {_named(move)}"):
        # If a person moved the alias after this move was complete, the alias stays where the person moved it.
        if not is_unfinished(client, move):
            return
        if move.outside is not None and not _is_moving(client, ledger.model):
            _describe(client, ledger.model, move)
            return
        client.set_registered_model_tag(ledger.model, MOVING_TAG, str(move.seq))
        while True:
            _move(client, ledger.model, move)
            newest = last_move(ledger.updated_entries())
            if newest is None or newest.seq == move.seq:
                break
            # Another task has recorded a newer decision, and this task may have overwritten the alias of that decision.
            move = newest
        client.delete_registered_model_tag(ledger.model, MOVING_TAG)


def _named(move: Entry) -> str:
    return f"v{move.champion.version}" if move.champion is not None else "no version"


def _is_moving(client: MlflowClient, model: str) -> bool:
    return MOVING_TAG in client.get_registered_model(model).tags


def _move(client: MlflowClient, model: str, move: Entry) -> None:
    if move.champion is not None:
        client.set_registered_model_alias(model, CHAMPION, str(move.champion.version))
    elif champion(client, model) is not None:
        client.delete_registered_model_alias(model, CHAMPION)
    _describe(client, model, move)


def _describe(client: MlflowClient, model: str, move: Entry) -> None:
    """Set the alias of the replaced version and the tags of the new champion."""
    if move.champion is None:
        return
    version = str(move.champion.version)
    if move.replaced is not None:
        _set_previous(client, model, move.replaced)
    tags = {LEDGER_TAG: str(move.seq), HASH_TAG: move.sha256}
    if move.outside is None:
        tags |= {
            REPLACED_TAG: str(move.replaced.version) if move.replaced else "",
            **_contract(move),
            # This tag is set last. Without this tag, the move is incomplete. The tag also keeps evaluations from
            # changing the contract. Therefore the tag is not set on a version to which a person moved the alias.
            SINCE_TAG: move.time.isoformat(),
        }
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)


def _set_previous(client: MlflowClient, model: str, replaced: ModelVersionRef) -> None:
    """Set the alias ``previous_champion`` to the replaced version.

    If that version was deleted, the alias is removed, as MLflow does for the aliases of a version that it deletes.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.set_registered_model_alias(model, PREVIOUS, str(replaced.version))
    except MlflowException as error:
        if not is_missing(error):
            raise
        # The alias may still name the version before the deleted one.
        client.delete_registered_model_alias(model, PREVIOUS)


def _contract(move: Entry) -> dict[str, str]:
    """Return the contract tag of a promoted version that TrainOperator did not train; empty for any other change.

    A rollback keeps the tag that the last promotion of the version has set.
    """
    return {CONTRACT_TAG: move.contract_sha256} if move.contract_sha256 else {}


def last_move(entries: Sequence[Entry]) -> Entry | None:
    """Return the entry of the last change of the champion; ``None`` if the ledger contains none."""
    return next((entry for entry in reversed(entries) if entry.moves), None)


def recorded_champion(entries: Sequence[Entry]) -> ModelVersionRef | None:
    """Return the champion according to the last change that the ledger contains; ``None`` if it names none."""
    move = last_move(entries)
    return move.champion if move is not None else None


def is_unfinished(client: MlflowClient, move: Entry) -> bool:
    """Return whether a change of the champion is not complete in MLflow yet.

    The cause is a task that has crashed or is still running, or a change that MLflow has refused.

    :param move: entry of the last change of the champion
    """
    if move.champion is not None:
        tags = client.get_model_version(move.model, str(move.champion.version)).tags
        done = (
            tags.get(SINCE_TAG) == move.time.isoformat()
            if move.outside is None
            else (tags.get(LEDGER_TAG), tags.get(HASH_TAG)) == (str(move.seq), move.sha256)
        )
        if not done:
            return True
    return _is_moving(client, move.model)


def settled_champion(client: MlflowClient, ledger: Ledger, entries: Sequence[Entry]) -> ModelVersionRef | None:
    """Return the champion, after completing the last change of the champion in the ledger.

    MLflow may refuse the change, for example because the credentials are read-only. The alias may then still name the
    replaced version, so the champion according to the ledger is returned.

    :return: ``None`` if the model has no champion
    :raises RegistryUnavailableError: MLflow does not respond
    :raises StoreError: the ledger has no change of the champion, although the tags of the champion name one
    """
    move = last_move(entries)
    if not complete(client, ledger) and move is not None:
        return move.champion
    now = champion(client, ledger.model)
    if move is None and now is not None:
        require_ledger(client, ledger, now)
    if move is None or now == move.champion:
        return now
    # Either a person moved the alias, or a delayed task has just overwritten it and will repair it.
    time.sleep(_REPAIR_SECONDS)
    return champion(client, ledger.model) if complete(client, ledger) else move.champion


def complete(client: MlflowClient, ledger: Ledger) -> bool:
    """Call :func:`carry_out`, and report whether MLflow accepted the change.

    A version that was deleted after the decision is ignored. If MLflow refuses the change, a warning is logged.

    :return: ``False`` if MLflow refused the change, otherwise ``True``
    :raises RegistryUnavailableError: MLflow does not respond
    """
    try:
        carry_out(client, ledger)
    except RegistryUnavailableError:
        raise
    except RegistryError as error:
        # The caller looks up the current champion.
        if is_missing(error):
            return True
        log.warning("%s Until MLflow accepts the change, the champion in the ledger is used.", error)
        return False
    return True


def verify(client: MlflowClient, ledger: Ledger) -> list[Entry]:
    """Read the ledger's entries and check them against the hashes in MLflow.

    The hash chain within the ledger cannot show that its last entries were changed or removed. Therefore MLflow stores
    the hash of each change of the champion as well.

    :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
    """
    entries = ledger.entries(every_file=True)
    with registry_errors(f"The versions of {ledger.model!r} cannot be read"):
        versions = client.search_model_versions(f"name = {quoted(ledger.model)}")
    check_hashes(ledger, entries, versions)
    return entries


def check_hashes(ledger: Ledger, entries: Sequence[Entry], versions: Iterable[ModelVersion]) -> None:
    """Check the ledger's entries against the hashes in MLflow.

    :param entries: the entries of the ledger, with their hashes
    :param versions: all versions of the model in MLflow
    :raises RegistryError: an entry was changed or removed; the error names the entry and its file
    """
    hashes = {entry.seq: entry.sha256 for entry in entries}
    for version in versions:
        seq, known = version.tags.get(LEDGER_TAG), version.tags.get(HASH_TAG)
        if seq is None or known is None:
            continue
        found = hashes.get(int(seq))
        if found != known:
            raise ledger.tampered(
                f"entry {seq} {'is missing' if found is None else 'was changed'}, according to the tags of "
                f"v{version.version} in MLflow ({ledger.url(int(seq))})"
            )


def former_champions(entries: Sequence[Entry]) -> list[int]:
    """Return the numbers of all versions that are or were champion according to the ledger, in ascending order."""
    versions: set[int] = set()
    for entry in entries:
        if entry.moves:
            versions.update(ref.version for ref in (entry.champion, entry.replaced) if ref is not None)
    return sorted(versions)


def champion_before(entries: Sequence[Entry], now: ModelVersionRef) -> ModelVersionRef | None:
    """Return the version that the current champion replaced when a decision other than a rollback made it champion.

    For example, after a rollback from v3 to v2, the champion before v2 is v1 and not v3.

    :param now: the current champion
    :return: ``None`` if the ledger contains no such version
    """
    for entry in reversed(entries):
        if entry.decision != "rolled_back" and entry.moves and entry.champion and entry.champion.version == now.version:
            return entry.replaced
    return None


def last_champion(entries: Sequence[Entry]) -> ModelVersionRef | None:
    """Return the champion according to the ledger or, if the model has no champion any more, its last champion.

    The result is ``None`` if the model never had a champion.
    """
    move = last_move(entries)
    return (move.champion or move.replaced) if move is not None else None
