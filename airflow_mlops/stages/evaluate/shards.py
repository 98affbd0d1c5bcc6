"""The shards of an evaluation, see :mod:`airflow_mlops.stages.shards`.

A shard predicts consecutive batches of the held-out rows with the candidates and the champion, and stores the predictions
(:mod:`airflow_mlops.stages.evaluate.scores`). The last shard reads the predictions of all shards. It then measures the models,
makes the verdict as a single task does, and deletes the predictions.

The last shard predicts the rows of another shard again in two cases. Either the predictions do not exist any more, for
example because the last shard was cleared, or the files of a version were changed after the shard had used them.

In addition to the objects of all shards, the folder of a round contains the claimed decisions ``champion.json`` and, if the
spec names no dataset, ``dataset.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from pydantic import Field

from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.usage import Usage
from airflow_mlops.data.datasets import WrittenFiles
from airflow_mlops.data.datasets.manifest import FileEntry
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import SplitPart
from airflow_mlops.metrics.predictions import Predictions, concatenate
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.versions import download
from airflow_mlops.stages import shards
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import champion as champions
from airflow_mlops.stages.evaluate import scores
from airflow_mlops.stages.evaluate.candidates import Candidate
from airflow_mlops.stages.evaluate.champion import Champion, attempt, comparable
from airflow_mlops.stages.evaluate.spec import EvaluateSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Piece(shards.Piece):
    """The predictions of one shard. Their file is not part of a dataset, so it is not in ``written``.

    :param champion: the claimed champion. It has a problem if it cannot be measured on the rows of the shard
    :param file: the file with the predictions; ``None`` if the shard has no rows
    :param models: fingerprint of the files of each version that predicted the rows, by number of the version
    :param usage: the resources that the shard used until it stored the predictions; ``None`` without an Airflow task
    """

    written: WrittenFiles = WrittenFiles(columns=[], files=[])
    champion: Champion
    file: FileEntry | None = None
    models: dict[int, str] = Field(default_factory=dict)
    usage: Usage | None = None

    @property
    def rows(self) -> int:
        """Return the number of predicted rows."""
        return self.file.rows if self.file is not None else 0


Round: TypeAlias = shards.Round[Piece]


def join(spec: EvaluateSpec, context: StepContext) -> Round:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown; or all other shards have
        succeeded, but not in this round
    """
    return shards.join(spec, context, Piece, "evaluation")


class Shards:
    """The shards of an evaluation, from the point of view of one shard.

    :param shard: the shard
    :param candidates: the candidates, whose contracts have the positive class of the evaluation
    :param data: the held-out rows of all shards
    :param allow_pyfunc: whether code that is stored with a version may run
    """

    def __init__(
        self,
        shard: Round,
        client: MlflowClient,
        candidates: Sequence[Candidate],
        data: SplitPart,
        context: StepContext,
        *,
        allow_pyfunc: bool,
    ) -> None:
        self._shard = shard
        self._client = client
        self._candidates = candidates
        self._data = data
        self._context = context
        self._allow_pyfunc = allow_pyfunc

    def score(self) -> Piece:
        """Predict the rows of the shard with the candidates and the champion, and store the predictions.

        If an earlier try has predicted the rows, its piece is returned.

        :raises EvaluationError: a candidate predicts labels of several types
        :raises SchemaError: the rows do not suit a candidate
        """
        if (found := self._shard.piece()) is not None:
            return found
        made = self._predict(self._shard)
        kept = self._shard.add(made)
        if made.file is not None and kept.file != made.file:
            self._context.store.delete(made.file.path)
        return kept

    def complete(self, pieces: Sequence[Piece]) -> Scores:
        """Return the predictions of all shards. Predict the rows of shards again whose predictions cannot be used.

        :param pieces: the pieces of all shards, ordered by shard
        """
        models = self._fingerprints()
        found = []
        for number, piece in enumerate(pieces):
            if not _exists(self._context.store, piece) or not piece.models.items() <= models.items():
                self._context.progress(
                    f"The predictions of shard {number} of {self._shard.shards} do not exist any more, or the files of a version have "
                    "changed since. The rows of this shard are predicted again."
                )
                piece = self._predict(self._shard.of(number)).model_copy(update={"usage": piece.usage})
            found.append(piece)
        return Scores(self._context.store, found)

    def _predict(self, shard: Round) -> Piece:
        """Predict the rows of a shard, and write the predictions to a file."""
        champion, compared = self._load_champion()
        models = [*self._candidates, *([compared] if compared is not None else [])]
        parts: dict[int, list[Predictions]] = {item.ref.version: [] for item in models}
        columns = list(dict.fromkeys(feature.name for item in models for feature in item.contract.features))
        for batch in self._data.share(columns, shard.shard, shard.shards):
            for candidate in self._candidates:
                parts[candidate.ref.version].append(candidate.model.predict(batch))
            if champion.ref is not None and compared is not None and champion.problem is None:
                predicted, problem = attempt(champion.ref, partial(compared.model.predict, batch))
                champion = champion.with_problem(problem)
                parts[compared.ref.version] += [predicted] if predicted is not None else []
        measured = models if champion.problem is None else self._candidates
        scored = [(item, concatenate(found, item.contract)) for item in measured if (found := parts[item.ref.version])]
        store, meter = self._context.store, self._context.meter
        file = scores.write(store, self._data.part, scored) if scored else None
        self._context.processed(file.rows if file is not None else 0)
        return Piece(
            champion=champion,
            file=file,
            models={item.ref.version: _fingerprint(self._client, item.ref) for item, _ in scored},
            usage=meter.usage() if meter is not None else None,
        )

    def _claimed(self) -> Champion:
        """Return the champion that the first shard has found."""

        def decide() -> dict[str, object]:
            model = self._candidates[0].ref.model
            found, _ = champions.find(self._client, model, self._data, self._context, allow_pyfunc=self._allow_pyfunc)
            return found.model_dump(mode="json")

        return Champion.model_validate(self._shard.claim("champion", decide))

    def _load_champion(self) -> tuple[Champion, Candidate | None]:
        """Return the claimed champion and the loaded version to measure.

        :return: the champion, and the version; ``None`` instead of the version if there is nothing to measure, or if the
            version is a candidate
        """
        claimed = self._claimed()
        if claimed.measured is None or claimed.measured.version in {item.ref.version for item in self._candidates}:
            return claimed, None
        champion, loaded = champions.open_measured(
            self._client, claimed, self._data, self._context.store, allow_pyfunc=self._allow_pyfunc
        )
        if champion.ref is None or loaded is None:
            return champion, None
        positive = self._candidates[0].contract.positive
        loaded, problem = attempt(champion.ref, partial(comparable, loaded, self._data, positive))
        return champion.with_problem(problem), loaded

    def _fingerprints(self) -> dict[int, str]:
        """Return the fingerprint of the files of each version that is measured, by number of the version."""
        found = {item.ref.version: _fingerprint(self._client, item.ref) for item in self._candidates}
        champion = self._claimed()
        measured = champion.measured
        if champion.ref is not None and measured is not None and measured.version not in found:
            digest, _ = attempt(champion.ref, partial(_fingerprint, self._client, measured))
            found[measured.version] = digest or ""
        return found


class Scores:
    """The predictions of all shards.

    :param store: artifact store with the predictions
    :param pieces: the pieces of all shards, ordered by shard
    """

    def __init__(self, store: ArtifactStore, pieces: Sequence[Piece]) -> None:
        self._store = store
        self._pieces = pieces

    @property
    def champion(self) -> Champion:
        """Return the claimed champion, with the problem of the first shard that could not measure it."""
        found = [piece.champion for piece in self._pieces]
        return next((champion for champion in found if champion.problem is not None), found[0])

    def predictions(self, candidate: Candidate) -> Predictions:
        """Return the predictions of a model for all rows, in the order of the rows."""
        files = [piece.file for piece in self._pieces if piece.file is not None]
        return concatenate((scores.read(self._store, file, candidate) for file in files), candidate.contract)

    def usage_of_others(self, shard: int) -> list[Usage]:
        """Return the resources that all other shards used.

        :param shard: index of the shard that makes the verdict
        """
        others = (piece for number, piece in enumerate(self._pieces) if number != shard)
        return [piece.usage for piece in others if piece.usage is not None]

    def discard(self) -> None:
        """Delete the predictions."""
        for piece in self._pieces:
            if piece.file is not None:
                self._store.delete(piece.file.path)


def _exists(store: ArtifactStore, piece: Piece) -> bool:
    """Return whether the predictions of a shard exist unchanged."""
    try:
        return piece.file is None or store.sha256(piece.file.path) == piece.file.sha256
    except FileNotFoundError:
        return False


def _fingerprint(client: MlflowClient, ref: ModelVersionRef) -> str:
    return fingerprint(file_hashes(download(client, ref)))
