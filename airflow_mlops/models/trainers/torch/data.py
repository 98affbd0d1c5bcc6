"""A training set streamed from Parquet to a network: encoded batch by batch, shuffled, and the same again after a restart."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import FeatureColumn, Task
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.inputs import column, numbers, texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

# Rows that are shuffled among each other; row groups are shuffled before.
BUFFER_ROWS = 262_144
# Encoded rows that are kept from one epoch to the next: reading them again takes a GPU's time.
KEPT_BYTES = 512 * 2**20
MAX_TEXTS = 10_000


@dataclass(frozen=True)
class Batch:
    """n rows as a network takes them.

    :param inputs: the arguments of its ``forward``, each of shape (n, ...)
    :param labels: int64 class indices, or float32 values, shape (n,)
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for values in (*self.inputs, self.labels))

    def take(self, rows: Any) -> Batch:
        return Batch(tuple(values[rows] for values in self.inputs), self.labels[rows])


@dataclass(frozen=True)
class Share:
    """Which of several processes this is, each of which takes as many rows as the others.

    :param rank: its place, from 0
    :param of: how many there are
    """

    rank: int = 0
    of: int = 1

    def places(self, rows: int, *, even: bool) -> range:
        """Its places among ``rows``.

        :param even: leave out the last ones that would give some process one more than others
        """
        return range(self.rank, rows - rows % self.of if even else rows, self.of)


class Reader(Protocol):
    """How rows become what a network takes.

    :param columns: the columns that it reads
    :param repeatable: whether a row gives the same each time
    :param classes: labels in the order of the network's outputs; empty for a regression
    :param label: mean and standard deviation by which the labels of a regression were standardised
    """

    @property
    def task(self) -> Task: ...

    @property
    def features(self) -> list[FeatureColumn]: ...

    @property
    def classes(self) -> list[Any]: ...

    @property
    def label(self) -> tuple[float, float]: ...

    @property
    def columns(self) -> list[str]: ...

    @property
    def repeatable(self) -> bool: ...

    @property
    def shape(self) -> dict[str, Any]:
        """Keyword arguments for the network that follow from the data."""

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[Any], ...]:
        """The arguments of the network's ``forward``."""

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        """This process's share of the rows of ``data``, with their labels."""


@dataclass(frozen=True)
class Encoding:
    """How rows become a network's inputs; learned from the training part in one streaming pass.

    :param means: of each numeric feature, over the rows that have it
    :param scales: their standard deviations, 1 for a constant
    :param vocabularies: for each text feature its texts; the index of one is its place plus 1
    :param label: mean and standard deviation of the label of a regression, else (0, 1)
    """

    task: Task
    label_name: str
    features: list[FeatureColumn]
    classes: list[Any]
    means: NDArray[np.float32]
    scales: NDArray[np.float32]
    vocabularies: list[list[str]]
    label: tuple[float, float]
    rows: int
    repeatable: bool = True

    @property
    def numeric(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind != "string"]

    @property
    def textual(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind == "string"]

    @property
    def columns(self) -> list[str]:
        return [*self.numeric, *self.textual, self.label_name]

    @property
    def shape(self) -> dict[str, Any]:
        return {
            "numbers": 2 * len(self.numeric),
            "texts": [len(known) + 1 for known in self.vocabularies],
            "outputs": max(1, len(self.classes)),
        }

    @classmethod
    def learn(
        cls, dataset: Dataset, part: str, label: str, task: Task, features: Sequence[FeatureColumn], classes: list[Any]
    ) -> Encoding:
        """Read ``part`` once."""
        numeric = [feature.name for feature in features if feature.kind != "string"]
        textual = [feature.name for feature in features if feature.kind == "string"]
        count, means, squares = (np.zeros(len(numeric) + 1) for _ in range(3))
        seen: list[dict[str, int]] = [{} for _ in textual]
        rows = 0
        for batch in dataset.batches(part, [*numeric, *textual, label]):
            rows += batch.num_rows
            values = [numbers(column(batch, name), name).astype(np.float64) for name in numeric]
            for name, found in zip(numeric, values, strict=True):
                if np.isinf(found).any():
                    raise TrainingError(
                        f"Feature {name!r} in part {part!r} of {dataset.manifest.name} holds infinite values, or such "
                        "beyond single precision: replace them by nulls, which stand for missing values."
                    )
            values.append(_label_values(batch, label) if task == "regression" else np.zeros(batch.num_rows))
            for place, found in enumerate(values):
                known = found[~np.isnan(found)]
                if not len(known):
                    continue
                # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
                apart = known.mean() - means[place]
                count[place] += len(known)
                means[place] += apart * len(known) / count[place]
                squares[place] += ((known - known.mean()) ** 2).sum()
                squares[place] += apart**2 * len(known) * (count[place] - len(known)) / count[place]
            for counts, name in zip(seen, textual, strict=True):
                for item in pc.value_counts(texts(column(batch, name), name).dictionary_decode()).to_pylist():
                    counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
        deviations = np.sqrt(squares / np.maximum(count, 1))
        scales = np.where(deviations > 1e-12 * np.maximum(1, np.abs(means)), deviations, 1.0)
        return cls(
            task=task,
            label_name=label,
            features=list(features),
            classes=classes,
            means=means[:-1].astype(np.float32),
            scales=scales[:-1].astype(np.float32),
            vocabularies=[
                sorted(sorted(counts, key=lambda text: (-counts[text], text))[:MAX_TEXTS]) for counts in seen
            ],
            label=(float(means[-1]), float(scales[-1])) if task == "regression" else (0.0, 1.0),
            rows=rows,
        )

    def inputs(self, data: pa.RecordBatch | pa.Table) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Float32, shape (n, 2 * number of numeric features): standardised, 0 where missing; then 1 where missing. And
        int64, shape (n, number of text features): 0 for a text that was not seen in training.
        """
        encoded = np.zeros((data.num_rows, 2 * len(self.numeric)), dtype=np.float32)
        for place, name in enumerate(self.numeric):
            values = numbers(column(data, name), name)
            missing = np.isnan(values)
            encoded[:, place] = np.where(missing, 0, (values - self.means[place]) / self.scales[place])
            encoded[:, len(self.numeric) + place] = missing
        indices = np.zeros((data.num_rows, len(self.textual)), dtype=np.int64)
        for place, (name, known) in enumerate(zip(self.textual, self.vocabularies, strict=True)):
            found = texts(column(data, name), name)
            codes = pc.index_in(found.dictionary, pa.array(known, found.dictionary.type))
            of_dictionary = pc.fill_null(codes, -1).to_numpy(zero_copy_only=False) + 1
            if len(of_dictionary):
                indices[:, place] = of_dictionary[found.indices.to_numpy()]
        return encoded, indices

    def batch(self, data: pa.RecordBatch, share: Share, *, even: bool) -> Batch:
        if share.of > 1:
            data = data.take(pa.array(share.places(data.num_rows, even=even), pa.int64()))
        return Batch(self.inputs(data), self._labels(data))

    def _labels(self, data: pa.RecordBatch) -> NDArray[Any]:
        if self.task == "regression":
            mean, scale = self.label
            return ((_label_values(data, self.label_name) - mean) / scale).astype(np.float32)
        return class_indices(data, self.label_name, self.classes)


def class_indices(data: pa.RecordBatch, label: str, classes: list[Any]) -> NDArray[np.int64]:
    """The place of each row's label among ``classes``.

    :raises TrainingError: a label is missing
    """
    values = column(data, label)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not isinstance(classes[0], str):
        values = pc.cast(pc.cast(values, pa.float64()), pa.int64())
    found = pc.index_in(values, pa.array(classes, values.type))
    if found.null_count:
        raise TrainingError(f"Label {label!r} is missing in some rows: leave them out before training.")
    return np.asarray(found.to_numpy(zero_copy_only=False).astype(np.int64))


def _label_values(data: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    return np.asarray(pc.cast(column(data, name), pa.float64()).to_numpy(zero_copy_only=False))


class Batches:
    """The batches of each epoch, in an order that the seed decides.

    A share of the rows is kept for validation: always the same ones.

    :param batch_size: rows a batch, over all processes
    :param validation: share of the rows, between 0 and 1
    :param share: this process, which reads its own rows only
    """

    def __init__(
        self,
        dataset: Dataset,
        part: str,
        reader: Reader,
        *,
        batch_size: int,
        validation: float,
        seed: int,
        share: Share,
    ) -> None:
        self._dataset, self._part, self._reader = dataset, part, reader
        self._validation, self._seed, self._share = validation, seed, share
        self._batch_size = max(1, batch_size // share.of)
        self._groups = dataset.row_groups(part)
        self._kept: dict[tuple[int, bool], Batch] = {}

    def training(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The shuffled batches of one epoch; as many, and as large, in every process.

        :param skip: batches that were seen before an interruption
        """
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._groups))
        return _ahead(self._shuffled(order, random, skip))

    def _shuffled(self, order: NDArray[np.int64], random: np.random.Generator, skip: int) -> Iterator[Batch]:
        held: list[Batch] = []
        for place, group in enumerate(order):
            held.append(self._group(int(group), validation=False))
            full = sum(map(len, held)) * self._share.of >= BUFFER_ROWS
            last = place == len(order) - 1
            if not (full or last):
                continue
            rows = _joined(held)
            rows = rows.take(random.permutation(len(rows)))
            # What does not fill a batch waits for the next rows, unless there are none.
            end = len(rows) if last else len(rows) - len(rows) % self._batch_size
            for start in range(0, end, self._batch_size):
                if skip:
                    skip -= 1
                    continue
                yield rows.take(slice(start, min(start + self._batch_size, end)))
            held = [rows.take(slice(end, None))]

    def validation(self) -> Iterator[Batch]:
        """The rows kept for validation, in their order."""
        for group in range(len(self._groups)):
            rows = self._group(group, validation=True)
            for start in range(0, len(rows), self._batch_size):
                yield rows.take(slice(start, start + self._batch_size))

    def _group(self, group: int, *, validation: bool) -> Batch:
        if (found := self._kept.get((group, validation))) is not None:
            return found
        rows = self._dataset.read_row_group(self._groups[group], self._reader.columns)
        kept = _kept(self._seed, group, len(rows), self._validation)
        rows = rows.filter(pa.array(kept if validation else ~kept))
        batch = self._reader.batch(rows, self._share, even=not validation)
        if self._reader.repeatable and batch.nbytes + sum(held.nbytes for held in self._kept.values()) <= KEPT_BYTES:
            self._kept[group, validation] = batch
        return batch


def validation_rows(
    dataset: Dataset, part: str, columns: Sequence[str], validation: float, seed: int
) -> Iterator[pa.RecordBatch]:
    """The rows that :class:`Batches` keeps for validation, as they are."""
    for group, place in enumerate(dataset.row_groups(part)):
        rows = dataset.read_row_group(place, columns)
        yield rows.filter(pa.array(_kept(seed, group, len(rows), validation)))


def _kept(seed: int, group: int, rows: int, validation: float) -> NDArray[np.bool_]:
    kept: NDArray[np.bool_] = np.random.default_rng((seed, 2**32, group)).random(rows) < validation
    return kept


def _joined(batches: list[Batch]) -> Batch:
    batches = [batch for batch in batches if len(batch)] or batches[:1]
    return Batch(
        tuple(np.concatenate(values) for values in zip(*(batch.inputs for batch in batches), strict=True)),
        np.concatenate([batch.labels for batch in batches]),
    )


def _ahead(batches: Iterator[Batch], depth: int = 4) -> Iterator[Batch]:
    """The same, prepared by a thread while the network computes."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised where the batches are taken
            put(error)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
