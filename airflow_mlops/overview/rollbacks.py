"""The changes that a rollback would make, according to the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.overview import versions
from airflow_mlops.overview.versions import VersionFacts
from airflow_mlops.registry.aliases import champion_before, former_champions, last_move
from airflow_mlops.registry.records.entry import Entry


class RollbackPreview(Model):
    """The changes that a rollback would make.

    :param current: the champion
    :param target: the version that would become champion
    :param former: all former champions, without the current one
    :param message: what would happen, in one sentence
    """

    current: VersionFacts
    target: VersionFacts
    former: list[int] = Field(default_factory=list)
    message: str


def preview(model: str, entries: Sequence[Entry], version: int | None) -> RollbackPreview:
    """Return the changes that a rollback to ``version`` would make.

    :param entries: entries of the ledger, oldest first
    :param version: number of a former champion; ``None`` for the version that the champion replaced when it became
        champion
    :raises RegistryError: the model has no champion, or the version was never champion or is champion now
    """
    move = last_move(entries)
    now = move.champion if move is not None else None
    if now is None:
        deleted = (
            " A person deleted the alias: `airflow mlops rollback` restores the previous champion." if move else ""
        )
        raise RegistryError(f"Model {model!r} has no champion, so it cannot be rolled back here.{deleted}")
    former = [number for number in former_champions(entries) if number != now.version]
    before = champion_before(entries, now) if version is None else None
    target = before.version if before is not None else version
    if target is None or target not in former:
        listed = ", ".join(f"v{number}" for number in former) or "none"
        wanted = f"v{target}" if target is not None else "The previous version"
        raise RegistryError(f"{wanted} cannot become champion of {model!r} by a rollback. Former champions: {listed}.")
    found = versions.from_ledger(entries)
    return RollbackPreview(
        current=found[now.version],
        target=found[target],
        former=former,
        message=f"{model} v{target} replaces v{now.version} as champion. Existing predictions are kept, and the next scoring "
        f"uses v{target}.",
    )
