"""Stream a training set from Parquet as shuffled batches. A restarted training gets the batches in the same order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.models.trainers.torch.reader import Batch, Reader, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

# Row groups are shuffled first. Then rows are shuffled within a buffer of this size, over all processes.
BUFFER_ROWS = 262_144
# Memory for encoded rows that are cached between epochs. Without the cache, reading takes longer than the computation
# on a GPU.
CACHE_BYTES = 512 * 2**20
# Threads that read and encode the next row groups, and batches that are prepared while the network computes.
_READERS, _PREPARED = 3, 8


class Batches:
    """The batches of each epoch, in an order that the seed determines.

    A fixed share of the rows is held out for validation.

    :param dataset: the training set
    :param part: name of the split part to read, such as ``train``; ``None`` for all rows
    :param batch_size: rows per batch, summed over all processes
    :param validation: fraction of the rows to hold out, between 0 and 1
    :param seed: seed of the order and of the held-out rows
    :param share: the rows that this process reads
    :param pinned: whether to put the training batches into pinned memory. They are then copied to a GPU while the CPU
        continues with other work
    """

    def __init__(
        self,
        dataset: Dataset,
        part: str | None,
        reader: Reader,
        *,
        batch_size: int,
        validation: float,
        seed: int,
        share: Share,
        pinned: bool = False,
    ) -> None:
        self._dataset, self._part, self._reader = dataset, part, reader
        self._validation, self._seed, self._share, self._pinned = validation, seed, share, pinned
        self._batch_size = max(1, batch_size // share.processes)
        self._groups = dataset.row_groups(part)
        self._cache: dict[tuple[int, bool], Batch] = {}
        self._weights = RowWeights.of(dataset)
        self._mean_weight = self._weights.mean(dataset, part) if self._weights else 1.0

    def training(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """Yield the shuffled batches of one epoch. Every process gets the same number of batches of the same sizes.

        :param epoch: number of the epoch, from 0
        :param skip: number of batches to skip, because they were used before an interruption
        """
        random = np.random.default_rng((self._seed, epoch))
        order = random.permutation(len(self._groups))
        return _prefetch(self._shuffled(order, random, skip))

    def _shuffled(self, order: NDArray[np.int64], random: np.random.Generator, skip: int) -> Generator[Batch]:
        buffer: list[Batch] = []
        for place, group in enumerate(self._read_groups(order, validation=False)):
            buffer.append(group)
            full = sum(map(len, buffer)) * self._share.processes >= BUFFER_ROWS
            last = place == len(order) - 1
            if not (full or last):
                continue
            rows = _concatenate(buffer)
            shuffled = random.permutation(len(rows))
            # Rows that do not fill a batch go into the next buffer. The last batch of an epoch may be smaller.
            end = len(rows) if last else len(rows) - len(rows) % self._batch_size
            for start in range(0, end, self._batch_size):
                if skip:
                    skip -= 1
                    continue
                # Rows are taken batch by batch, because the network would wait while a whole buffer is shuffled at
                # once.
                batch = rows.take(shuffled[start : min(start + self._batch_size, end)])
                yield _pin(batch) if self._pinned else batch
            buffer = [rows.take(shuffled[end:])]

    def validation(self) -> Iterator[Batch]:
        """Yield batches of this process's share of the validation rows, in the order of the training set."""
        for rows in self._read_groups(range(len(self._groups)), validation=True):
            for start in range(0, len(rows), self._batch_size):
                yield rows.take(slice(start, start + self._batch_size))

    def _read_groups(self, groups: Iterable[int], *, validation: bool) -> Iterator[Batch]:
        """Yield the encoded rows of each row group. Threads read the following row groups in advance.

        :param groups: positions of the row groups
        :param validation: whether to yield the rows held out for validation instead of the training rows
        """
        if not self._reader.repeatable:
            # Row groups are read one after the other, so that a Dataset draws its random numbers in the same order in
            # each training.
            yield from (self._read(int(group), validation=validation) for group in groups)
            return
        ahead: deque[tuple[int, Future[Batch]]] = deque()
        pool = ThreadPoolExecutor(_READERS, "row-groups")
        try:
            for group in map(int, groups):
                ahead.append((group, pool.submit(self._read, group, validation=validation)))
                if len(ahead) > _READERS:
                    yield self._cached(*ahead.popleft(), validation=validation)
            while ahead:
                yield self._cached(*ahead.popleft(), validation=validation)
        finally:
            pool.shutdown(cancel_futures=True)

    def _cached(self, group: int, read: Future[Batch], *, validation: bool) -> Batch:
        batch = read.result()
        # Only this thread changes the cache.
        if batch.nbytes + sum(item.nbytes for item in self._cache.values()) <= CACHE_BYTES:
            self._cache.setdefault((group, validation), batch)
        return batch

    def _read(self, group: int, *, validation: bool) -> Batch:
        if (cached := self._cache.get((group, validation))) is not None:
            return cached
        columns = [*self._reader.columns, *(self._weights.columns if self._weights else [])]
        rows = self._dataset.read_row_group(self._groups[group], list(dict.fromkeys(columns)))
        held_out = _held_out(self._seed, group, len(rows), self._validation)
        rows = rows.filter(pa.array(held_out if validation else ~held_out))
        batch = self._reader.batch(rows, self._share, even=not validation)
        if self._weights is None:
            return batch
        return replace(batch, weights=self._relative_weights(rows, even=not validation))

    def _relative_weights(self, rows: pa.RecordBatch, *, even: bool) -> NDArray[np.float32]:
        """Return the weights of this process's share of ``rows``, divided by the mean weight of all training rows.

        The mean of the weighted losses of a random batch is then an unbiased estimate of the weighted mean loss.
        """
        assert self._weights is not None
        found = self._weights.some(rows) / self._mean_weight
        share = self._share.indices(rows.num_rows, even=even)
        return found[share.start : share.stop : share.step].astype(np.float32)


def validation_rows(
    dataset: Dataset, part: str | None, columns: Sequence[str], validation: float, seed: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that :class:`Batches` holds out for validation, without encoding them.

    :param dataset: the training set
    :param part: name of the split part to read, such as ``train``
    :param columns: names of the columns to read
    :param validation: fraction of the rows that is held out, between 0 and 1
    :param seed: seed of the training, which determines the held-out rows
    """
    for group, place in enumerate(dataset.row_groups(part)):
        rows = dataset.read_row_group(place, columns)
        yield rows.filter(pa.array(_held_out(seed, group, len(rows), validation)))


def _held_out(seed: int, group: int, rows: int, validation: float) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = np.random.default_rng((seed, 2**32, group)).random(rows) < validation
    return chosen


def _concatenate(batches: list[Batch]) -> Batch:
    batches = [batch for batch in batches if len(batch)] or batches[:1]
    return Batch(
        tuple(np.concatenate(values) for values in zip(*(batch.inputs for batch in batches), strict=True)),
        np.concatenate([batch.labels for batch in batches]),
        np.concatenate([batch.weights for batch in batches if batch.weights is not None])
        if batches[0].weights is not None
        else None,
    )


def _pin(batch: Batch) -> Batch:
    def pinned(values: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = torch.from_numpy(values).pin_memory().numpy()
        return found

    weights = None if batch.weights is None else pinned(batch.weights)
    return Batch(tuple(map(pinned, batch.inputs)), pinned(batch.labels), weights)


def _prefetch(batches: Generator[Batch], depth: int = _PREPARED) -> Iterator[Batch]:
    """Yield ``batches``. A thread prepares up to ``depth`` batches in advance while the network computes."""
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
            with closing(batches):
                for batch in batches:
                    if not put(batch):
                        return
            put(None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consuming thread
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
