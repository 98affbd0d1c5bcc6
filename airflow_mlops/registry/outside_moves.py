"""Notice that the champion was changed outside of this package, and record the change in the ledger.

Anyone who can write to MLflow can move or delete the alias ``champion``, for example in MLflow's UI. The ledger names
the champion after the last recorded change, so any other champion is a change from outside. If the alias changes
several times between two checks, only the last change is noticed. No change is noticed if the alias has returned to the
recorded version.

The entry does not approve the files of the new champion. They are checked against the hashes of the version's last
promotion in the ledger. Without such a promotion, they are not checked (:mod:`airflow_mlops.registry.integrity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops import __version__
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.aliases import complete, last_move, settled_champion
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.outside_move import MOVED_OUTSIDE, Observer, OutsideMove
from airflow_mlops.registry.versions import champion

if TYPE_CHECKING:
    from mlflow import MlflowClient


def record(client: MlflowClient, ledger: Ledger, entry_id: str, noticed_by: Observer) -> Entry | None:
    """Record in the ledger that the champion in MLflow differs from the champion in the ledger.

    If several observers notice the same change, one entry is written. A promotion or rollback that is in progress or
    has crashed does not count as a change from outside.

    :param entry_id: the ``id`` of a new entry
    :param noticed_by: the observer that noticed the change: ``RegistryTrigger`` or ``webhook``
    :return: the new entry, or an earlier entry with the id ``entry_id``; ``None`` if the champion is the one in the
        ledger, or if another observer was faster
    :raises RegistryError: MLflow cannot be used, or the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """

    def decide(entries: Sequence[Entry]) -> Decision | None:
        # If the alias names the champion of the ledger, nothing is left to do, even while a promotion is in progress.
        if number(champion(client, ledger.model)) == known(entries):
            return None
        now = settled_champion(client, ledger, entries)
        if number(now) == known(entries):
            return None
        move = last_move(entries)
        return _decision(client, entries, move.champion if move is not None else None, now, noticed_by)

    entry = ledger.record(entry_id, decide)
    if entry is not None:
        complete(client, ledger)
    return entry


def known(entries: Sequence[Entry]) -> int | None:
    """Return the version that is champion according to the ledger; ``None`` if there is none.

    :param entries: entries of the ledger, oldest first
    """
    move = last_move(entries)
    return number(move.champion) if move is not None else None


def recorded_by(entries: Sequence[Entry], prefix: str) -> list[Entry]:
    """Return the changes that an observer has recorded, oldest first.

    :param prefix: start of the ids of the observer's entries
    """
    return [entry for entry in entries if entry.outside is not None and entry.id.startswith(prefix)]


def number(ref: ModelVersionRef | None) -> int | None:
    """Return the number of a version; ``None`` if there is no version."""
    return ref.version if ref is not None else None


def _decision(
    client: MlflowClient,
    entries: Sequence[Entry],
    before: ModelVersionRef | None,
    now: ModelVersionRef | None,
    noticed_by: Observer,
) -> Decision:
    promotion = next((entry for entry in reversed(entries) if now is not None and entry.promotes(now.version)), None)
    return Decision(
        decision=MOVED_OUTSIDE,
        replaced=before,
        champion=now,
        dataset_name=promotion.dataset_name if promotion is not None else None,
        dataset_id=promotion.dataset_id if promotion is not None else None,
        code={"airflow_mlops": __version__},
        origins=[origin(client, now)] if now is not None else [],
        reason=_reason(before, now, promotion),
        files=promotion.files if promotion is not None else {},
        card=promotion.card if promotion is not None else {},
        outside=OutsideMove(noticed_by=noticed_by, promotion=promotion.seq if promotion is not None else None),
    )


def _reason(before: ModelVersionRef | None, now: ModelVersionRef | None, promotion: Entry | None) -> str:
    if now is None:
        assert before is not None
        return f"The alias was deleted from v{before.version} in MLflow, which does not record by whom."
    start = f"from v{before.version} " if before is not None else ""
    moved = f"The alias was moved {start}to v{now.version} in MLflow, which does not record by whom."
    if promotion is None:
        return f"{moved} The ledger never promoted v{now.version}, so its files are not checked."
    return f"{moved} Entry {promotion.seq} had promoted v{now.version}."
