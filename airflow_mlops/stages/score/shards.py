"""The shards of a scoring: mapped tasks that score the rows of the same datasets with the same model version.

The shards share these objects in the artifact store::

    checkpoints/scoring/DAG/RUN/TASK/HASH/ROUND/members/SHARD.json   the task that takes part as this shard
    checkpoints/scoring/DAG/RUN/TASK/HASH/ROUND/version.json         the claimed model version
    checkpoints/scoring/DAG/RUN/TASK/HASH/ROUND/selections/          the selected datasets
    checkpoints/scoring/DAG/RUN/TASK/HASH/ROUND/pieces/SHARD.json    the finished files of the shard
    checkpoints/scoring/DAG/RUN/TASK/HASH/ROUND/owner.json           the shard that commits the dataset

Without mapped tasks, executors score the shards of one task, and the folder is ``scoring/parts/KEY``
(:mod:`airflow_mlops.stages.score.on_executors`).

HASH is a hash of the spec without the shard. An existing object, except for selections, is never overwritten.
Therefore the first task decides, and the other tasks and retries read its decision.

In a *round*, all shards use one model version. A retry belongs to the round of its first try. A cleared shard stays in
the round if another shard of the round has succeeded. Otherwise, for example if all shards were cleared, it begins a
new round, which the other shards join. A shard that was still running in the old round scores its rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import DatasetCorruptError, SpecError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import WrittenFiles
from airflow_mlops.data.kept_selections import KeptSelections
from airflow_mlops.data.results import task_folder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score.spec import ScoreSpec


class Piece(Model):
    """The predictions of one shard.

    :param written: files with the predictions, which no manifest lists yet. There are none if the shard has no rows
    :param details: details for the manifest of the dataset
    :param engine: library that ran the model
    :param seconds: time to read, score and write the rows
    """

    written: WrittenFiles
    details: dict[str, Any]
    engine: str
    seconds: float

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(file.rows for file in self.written.files)


@dataclass(frozen=True)
class Round:
    """A round of scoring, from the point of view of one shard. All shards of a round use the same model version.

    :param group: folder of the rounds of a mapped task
    :param number: number of the round, from 0
    :param shard: index of the shard, from 0
    :param shards: number of shards
    """

    store: ArtifactStore
    group: str
    number: int
    shard: int
    shards: int

    @property
    def kept(self) -> KeptSelections:
        """Return the selections of datasets that all shards share."""
        return KeptSelections(self.store, f"{self.group}/{self.number}")

    @property
    def is_newest(self) -> bool:
        """Return whether no task has begun a newer round."""
        return _newest(self.store, self.group) == self.number

    def of(self, shard: int) -> Round:
        """Return the same round from the point of view of another shard."""
        return replace(self, shard=shard)

    def version(self, resolve: Callable[[], ModelVersionRef | None]) -> ModelVersionRef | None:
        """Return the model version that the first shard has claimed.

        :param resolve: function that returns the version to claim, or ``None`` if there is no version. All shards are
            then skipped
        :return: the claimed version; ``None`` if all shards are skipped
        """
        key = self._key("version.json")
        if not self.store.exists(key):
            version = resolve()
            self.store.create_exclusive(key, canonical_json(version.model_dump(mode="json") if version else None))
        claimed = self.store.read_json(key)
        return ModelVersionRef.model_validate(claimed) if claimed else None

    def piece(self) -> Piece | None:
        """Return the piece of this shard; ``None`` if the shard is not scored yet."""
        try:
            return Piece.model_validate(self.store.read_json(self._piece(self.shard)))
        except FileNotFoundError:
            return None

    def add(self, piece: Piece) -> Piece:
        """Store and return the piece of this shard.

        If another try was faster, its piece is returned, and the files of ``piece`` are deleted.
        """
        if self.store.create_exclusive(self._piece(self.shard), canonical_json(piece.model_dump(mode="json"))):
            return piece
        for file in piece.written.files:
            self.store.delete(file.path)
        return Piece.model_validate(self.store.read_json(self._piece(self.shard)))

    def pieces(self) -> list[Piece] | None:
        """Return the pieces of all shards, ordered by shard; ``None`` if a shard is not scored yet.

        :raises DatasetCorruptError: the files of a piece were deleted or changed
        """
        found = self.store.read_many_json(map(self._piece, range(self.shards)))
        if len(found) < self.shards:
            return None
        pieces = [Piece.model_validate(found[self._piece(number)]) for number in range(self.shards)]
        for number, piece in enumerate(pieces):
            for file in piece.written.files:
                info = self.store.info(file.path)
                if info is None or info["size"] != file.bytes:
                    raise DatasetCorruptError(
                        f"The predictions of shard {number} of {self.shards} were deleted or changed: "
                        f"{self.store.url_of(file.path)}. Clear all shards of the task."
                    )
        return pieces

    def owns_dataset(self) -> bool:
        """Return whether this shard commits the dataset.

        The first shard that calls this method commits the dataset. Retries of this shard commit it as well.
        """
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
        return f"checkpoints/{self.group}/{self.number}/{name}"


def join(spec: ScoreSpec, context: StepContext) -> Round:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown
    """
    assert spec.shard is not None  # checked by the spec
    assert spec.shards is not None
    if not context.provenance.run_id:
        raise SpecError(
            "`shards` divides the rows among the mapped tasks of a DAG run. Without Airflow, remove `shards`."
        )
    shared = spec.model_dump(mode="json", exclude={"shard", "succeeded"})
    group = f"scoring/{task_folder(context.provenance)}/{fingerprint(shared)[:16]}"
    number = max(0, _newest(context.store, group))
    while True:
        found = Round(context.store, group, number, spec.shard, spec.shards)
        if found.join(context.key, context.provenance.map_index, spec.succeeded):
            return found
        number += 1


def _newest(store: ArtifactStore, group: str) -> int:
    """Return the number of the newest round; -1 if there is none."""
    return max((int(key.rpartition("/")[2]) for key in store.keys(f"checkpoints/{group}")), default=-1)
