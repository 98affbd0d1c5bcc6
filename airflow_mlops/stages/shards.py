"""The shards of a step: mapped tasks that process the rows of the same datasets, and have one result together.

The shards share these objects in the artifact store::

    checkpoints/STEP/DAG/RUN/TASK/HASH/ROUND/members/SHARD.json   the task that takes part as this shard
    checkpoints/STEP/DAG/RUN/TASK/HASH/ROUND/selections/          the selected datasets
    checkpoints/STEP/DAG/RUN/TASK/HASH/ROUND/NAME.json            a claimed decision, such as the model version
    checkpoints/STEP/DAG/RUN/TASK/HASH/ROUND/pieces/SHARD.json    the finished files of the shard
    checkpoints/STEP/DAG/RUN/TASK/HASH/ROUND/owner.json           the shard that commits the dataset

HASH is a hash of the spec without the shard. An existing object, except for selections, is never overwritten.
Therefore the first task decides, and the other tasks and retries read its decision.

In a *round*, all shards read the same datasets and obey the same decisions. A retry belongs to the round of its first
try. A cleared shard stays in the round if another shard of the round has succeeded. Otherwise, for example if all
shards were cleared, it begins a new round, which the other shards join. A shard that was still running in the old round
processes its rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import DatasetCorruptError, SpecError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.shards import ShardedSpec
from airflow_mlops.data.datasets import WrittenFiles
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.results import task_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext


class Piece(Model):
    """The result of one shard.

    :param written: files of the dataset, which no manifest lists yet. A shard without rows may have no file
    """

    written: WrittenFiles

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(file.rows for file in self.written.files)


P = TypeVar("P", bound=Piece)
S = TypeVar("S", bound=ShardedSpec)


@dataclass(frozen=True)
class Round(Generic[P]):
    """A round, from the point of view of one shard.

    :param kind: type of the pieces
    :param group: folder of the rounds of a mapped task
    :param number: number of the round, from 0
    :param shard: index of the shard, from 0
    :param shards: number of shards
    """

    store: ArtifactStore
    kind: type[P]
    group: str
    number: int
    shard: int
    shards: int

    @property
    def folder(self) -> str:
        """Return the folder of the round in the artifact store."""
        return f"checkpoints/{self.group}/{self.number}"

    @property
    def kept(self) -> KeptSelections:
        """Return the selections of datasets that all shards share."""
        return KeptSelections(self.store, f"{self.group}/{self.number}")

    @property
    def is_newest(self) -> bool:
        """Return whether no task has begun a newer round."""
        return _newest(self.store, self.group) == self.number

    def of(self, shard: int) -> Round[P]:
        """Return the same round from the point of view of another shard."""
        return replace(self, shard=shard)

    def claim(self, name: str, decide: Callable[[], Any]) -> Any:
        """Return the decision of the first shard.

        :param name: name of the decision
        :param decide: function that returns the decision of this shard, as a JSON value
        :return: the decision of the shard that was the first to claim it
        """
        key = self._key(f"{name}.json")
        if not self.store.exists(key):
            self.store.create_exclusive(key, canonical_json(decide()))
        return self.store.read_json(key)

    def piece(self) -> P | None:
        """Return the piece of this shard; ``None`` if the shard is not finished yet."""
        try:
            return self.kind.model_validate(self.store.read_json(self._piece(self.shard)))
        except FileNotFoundError:
            return None

    def add(self, piece: P) -> P:
        """Store the piece of this shard, and return the stored piece.

        If another try of the shard has already stored a piece, that piece is returned, and the files of ``piece`` are
        deleted.
        """
        if self.store.create_exclusive(self._piece(self.shard), canonical_json(piece.model_dump(mode="json"))):
            return piece
        for file in piece.written.files:
            self.store.delete(file.path)
        return self.kind.model_validate(self.store.read_json(self._piece(self.shard)))

    def pieces(self) -> list[P] | None:
        """Return the pieces of all shards, ordered by shard; ``None`` if a shard is not finished yet.

        :raises DatasetCorruptError: the files of a piece were deleted or changed
        """
        found = self.store.read_many_json(map(self._piece, range(self.shards)))
        if len(found) < self.shards:
            return None
        pieces = [self.kind.model_validate(found[self._piece(number)]) for number in range(self.shards)]
        for number, piece in enumerate(pieces):
            require_intact(self.store, piece.written, f"shard {number} of {self.shards}")
        return pieces

    def discard(self, kept: Collection[str] = ()) -> None:
        """Delete the pieces of all shards and their files.

        A piece is deleted before its files, so no try finds a piece without files.

        :param kept: files that a dataset has, which are not deleted
        """
        for path, found in self.store.read_many_json(map(self._piece, range(self.shards))).items():
            self.store.delete(path)
            for file in self.kind.model_validate(found).written.files:
                if file.path not in kept:
                    self.store.delete(file.path)

    def pieces_to_commit(self) -> list[P] | None:
        """Return the pieces of all shards, ordered by shard, if this shard commits the dataset.

        The first shard that finds all pieces commits the dataset. A retry of this shard commits the dataset again.

        :return: the pieces; ``None`` if a shard is not finished yet, or if another shard commits the dataset
        :raises DatasetCorruptError: the files of a piece were deleted or changed
        """
        pieces = self.pieces()
        return pieces if pieces is not None and self._owns_dataset() else None

    def _owns_dataset(self) -> bool:
        key = self._key("owner.json")
        own = {"shard": self.shard}
        return self.store.create_exclusive(key, canonical_json(own)) or self.store.read_json(key) == own

    def join(self, key: str, map_index: int, succeeded: Sequence[int]) -> bool:
        """Record that the task takes part in the round as this shard.

        :param key: key of the task's result
        :param map_index: map index of the task
        :param succeeded: map indexes of the shards that have succeeded
        :return: whether the task may take part. If not, it must join a newer round
        """
        own = f"{self._key('members')}/{self.shard}.json"
        if self.store.create_exclusive(own, canonical_json({"key": key, "map_index": map_index})):
            return True
        if self.store.read_json(own)["key"] == key:
            return True
        members = self.store.read_many_json(self.store.keys(self._key("members")))
        return any(member["map_index"] in succeeded for path, member in members.items() if path != own)

    def _piece(self, shard: int) -> str:
        return self._key(f"pieces/{shard}.json")

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"


def join(spec: ShardedSpec, context: StepContext, kind: type[P], step: str) -> Round[P]:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :param kind: type of the pieces
    :param step: name of the folder of the step
    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown; or all other shards have
        succeeded, but not in this round, so no task would write the dataset
    """
    assert spec.shard is not None  # checked by the spec
    assert spec.shards is not None
    if not context.provenance.run_id:
        raise SpecError(
            "`shards` divides the rows among the mapped tasks of a DAG run. Without Airflow, remove `shards`."
        )
    shared = spec.model_dump(mode="json", exclude={"shard", "succeeded", "others_succeeded"})
    group = f"{step}/{task_folder(context.provenance)}/{fingerprint(shared)[:16]}"
    number = max(0, _newest(context.store, group))
    while True:
        found = Round(context.store, kind, group, number, spec.shard, spec.shards)
        if found.join(context.key, context.provenance.map_index, spec.succeeded):
            break
        number += 1
    if spec.others_succeeded and any(
        found.of(other).piece() is None for other in range(spec.shards) if other != spec.shard
    ):
        raise SpecError(
            f"All other shards of task {context.provenance.task_id!r} have succeeded, but with other parameters or other "
            "datasets than this shard, so the result would never be complete. Clear all shards of the task."
        )
    return found


def for_newer_round(spec: S) -> S:
    """Return the spec for a shard that processes its rows again in a newer round.

    Other shards were cleared since the task began, so they may not have succeeded again.
    """
    return spec.model_copy(update={"others_succeeded": False})


def require_intact(store: ArtifactStore, written: WrittenFiles, what: str) -> None:
    """Check that the files of a piece exist and have their sizes.

    :param what: name of the piece for the error message, such as ``shard 0 of 8``
    :raises DatasetCorruptError: a file was deleted or changed
    """
    for file in written.files:
        info = store.info(file.path)
        if info is None or info["size"] != file.bytes:
            raise DatasetCorruptError(
                f"The files of {what} were deleted or changed: {store.url_of(file.path)}. Clear all shards of the task."
            )


def with_rows(pieces: Sequence[P]) -> list[P]:
    """Return the pieces whose files belong to the dataset.

    Pieces without rows are left out. If no piece has rows, the first piece is returned, so that the dataset has a file.
    """
    return [piece for piece in pieces if piece.rows] or list(pieces[:1])


def _newest(store: ArtifactStore, group: str) -> int:
    """Return the number of the newest round; -1 if there is none."""
    return max((int(key.rpartition("/")[2]) for key in store.keys(f"checkpoints/{group}")), default=-1)
