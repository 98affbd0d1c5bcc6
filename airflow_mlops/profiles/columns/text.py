"""Text columns. A text column with few distinct values is profiled as categories, any other column as free text.

A column is profiled as categories as long as every value can be kept. As soon as there are too many values, all rows,
including those that were counted before, are also profiled by length and by words. Whether a column is also profiled by
words depends on the values alone. It does not depend on the order of the values or on how profiles are merged. Values
without spaces (codes, Chinese) are profiled by length only.

All counts are row counts, not word counts, because the words of one row are not independent of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.categorical import CategoricalColumn, CategoricalCounter, category_kind
from airflow_mlops.profiles.columns.numeric import NumericColumn, NumericCounter

BUCKETS = 1_024
DRAWN = 2_048
# Number of frequent words that are kept with their text.
_NAMED = 256
_BETWEEN_WORDS = r"[^\pL\pM\pN]+"
_SPACE = r"\s|\pZ"
_BYTES_AT_ONCE, _ROWS_AT_ONCE = 4_000_000, 65_536

Ints = npt.NDArray[np.int64]


class Words(Model):
    """Row counts by the lower-case words in the rows. Values without a space are not counted.

    All counts are exact, except in ``frequent``. Only the report uses ``frequent``, to name words. Tests do not use it.

    :param rows: number of rows with a space and at least one word
    :param buckets: number of rows with a word of each hash bucket, shape (:data:`BUCKETS`,)
    :param drawn: number of rows by drawn word. The drawn word of a row is the word with the smallest hash. The key of a
        drawn word is this hash in hexadecimal. Only the :data:`DRAWN` smallest hashes are kept
    :param below: only words with a hash below this hash are counted in ``drawn``; ``None`` if all words are counted
    :param frequent: frequent words and their approximate row counts, most frequent first
    """

    rows: int
    buckets: list[int]
    drawn: dict[str, int]
    below: str | None
    frequent: list[tuple[str, int]]


class TextColumn(CategoricalColumn):
    """The profile of a text column with too many distinct values to keep.

    :param lengths: profile of the text lengths, in characters
    :param words: row counts by word
    """

    kind: Literal["text"]  # type: ignore[assignment]
    lengths: NumericColumn
    words: Words

    @property
    def free(self) -> bool:
        """Return whether the column is free text: it has more than half as many distinct values as non-null rows."""
        return 2 * self.distinct > self.valid


class TextCounter:
    """Computes the profile of a text column from a stream of values."""

    def __init__(self) -> None:
        self.kind: Literal["categorical", "text"] = "categorical"
        self._values = CategoricalCounter("categorical")
        self._known: dict[str, int] = {}
        self._lengths = NumericCounter()
        self._words = _WordCounter()

    @property
    def rows(self) -> int:
        return self._values.rows

    @rows.setter
    def rows(self, rows: int) -> None:
        self._values.rows = rows

    @property
    def missing(self) -> int:
        return self._values.missing

    @missing.setter
    def missing(self, missing: int) -> None:
        self._values.missing = missing

    def update(self, name: str, array: pa.Array) -> None:
        if category_kind(array.type) != "categorical":
            raise SchemaError(
                f"Column {name!r} is {self.kind} in earlier rows and {array.type} in later rows: convert it to one type."
            )
        array = decoded(array).cast(pa.string())
        self._values.update(name, array)
        if self.kind == "text":
            self._update_text(array)
            return
        counts = pc.value_counts(array.drop_null())
        self._count(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))

    def add(self, column: Any) -> None:
        self._values.add(column)
        if isinstance(column, TextColumn):
            self.become_text()
            self._lengths.add(column.lengths)
            self._words.add(column.words)
        elif self.kind == "text":
            self._replay(column.counts())
        else:
            self._count(column.counts())

    def _count(self, counts: Mapping[str, int]) -> None:
        for value, rows in counts.items():
            self._known[value] = self._known.get(value, 0) + rows
        if self._values.hashed is not None:
            self.become_text()

    def become_text(self) -> None:
        """Also profile rows by length and words from now on, including the rows that were counted before."""
        if self.kind == "categorical":
            known, self._known = self._known, {}
            self.kind = "text"
            self._replay(known)

    def _replay(self, counts: Mapping[str, int]) -> None:
        values, ends = pa.array(list(counts), pa.string()), np.cumsum(list(counts.values()), dtype=np.int64)
        for start in range(0, int(ends[-1]) if len(ends) else 0, _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, ends[-1]))
            self._update_text(values.take(pa.array(np.searchsorted(ends, rows, side="right"))))

    def _update_text(self, array: pa.Array) -> None:
        self._lengths.update("", pc.utf8_length(array))
        spaced = array.filter(pc.match_substring_regex(array, _SPACE))
        counts = pc.value_counts(spaced.drop_null())
        self._words.count(counts.field("values"), counts.field("counts").to_numpy())

    def result(self) -> CategoricalColumn:
        found = self._values.result()
        if self.kind == "categorical":
            return found
        lengths = self._lengths.result().model_copy(update={"rows": self.rows, "missing": self.missing})
        return TextColumn(**{**dict(found), "kind": "text"}, lengths=lengths, words=self._words.result())


def as_text(column: CategoricalColumn) -> TextColumn:
    """Convert a categorical profile to a text profile. The result is exact, because the profile keeps all values."""
    if isinstance(column, TextColumn):
        return column
    counter = TextCounter()
    counter.add(column)
    counter.become_text()
    found = counter.result()
    assert isinstance(found, TextColumn)
    return found


class _WordCounter:
    """Computes :class:`Words` from a stream of values."""

    def __init__(self) -> None:
        self.rows = 0
        self.buckets = np.zeros(BUCKETS, dtype=np.int64)
        self.drawn: dict[int, int] = {}
        self.below: int | None = None
        self.frequent: dict[str, int] = {}

    def count(self, values: pa.Array, rows: Ints) -> None:
        for start, stop in _slices(values):
            self._count(values.slice(start, stop - start), rows[start:stop])
        self._limit()

    def _count(self, values: pa.Array, rows: Ints) -> None:
        split = pc.split_pattern_regex(pc.utf8_lower(values), _BETWEEN_WORDS)
        words, row = pc.list_flatten(split), pc.list_parent_indices(split).to_numpy()
        some = pc.not_equal(words, "")
        words, row = words.filter(some).dictionary_encode(), row[some.to_numpy(zero_copy_only=False)]
        if not len(words):
            return
        names = words.dictionary.to_pylist()
        hashes = np.fromiter(map(word_hash, names), np.int64, len(names))
        # Each word counts once per row.
        row, word = _once(row, words.indices.to_numpy(), len(names))
        firsts = np.flatnonzero(np.diff(row, prepend=-1))
        drawn, place = np.unique(np.minimum.reduceat(hashes[word], firsts), return_inverse=True)
        with_words = rows[row[firsts]]
        self.rows += int(with_words.sum())
        self._draw(zip(drawn.tolist(), _total(place, with_words, len(drawn)), strict=True))
        self._name(zip(names, _total(word, rows[row], len(names)), strict=True))
        row, bucket = _once(row, hashes[word] % BUCKETS, BUCKETS)
        self.buckets += np.asarray(_total(bucket, rows[row], BUCKETS))

    def add(self, words: Words) -> None:
        self.rows += words.rows
        self.buckets += np.asarray(words.buckets)
        self._name(words.frequent)
        self._draw((int(name, 16), rows) for name, rows in words.drawn.items())
        if words.below is not None:
            self._end_at(int(words.below, 16))
        self._limit()

    def _draw(self, counts: Iterator[tuple[int, int]]) -> None:
        for name, rows in counts:
            if self.below is None or name < self.below:
                self.drawn[name] = self.drawn.get(name, 0) + rows

    def _name(self, counts: Any) -> None:
        for name, rows in counts:
            self.frequent[name] = self.frequent.get(name, 0) + rows

    def _limit(self) -> None:
        if len(self.drawn) > DRAWN:
            self._end_at(sorted(self.drawn)[DRAWN])
        if len(self.frequent) > 4 * _NAMED:
            self.frequent = dict(self._most_frequent(2 * _NAMED))

    def _end_at(self, below: int) -> None:
        self.below = below if self.below is None else min(below, self.below)
        self.drawn = {name: rows for name, rows in self.drawn.items() if name < self.below}

    def _most_frequent(self, number: int) -> list[tuple[str, int]]:
        return sorted(self.frequent.items(), key=lambda item: (-item[1], item[0]))[:number]

    def result(self) -> Words:
        return Words(
            rows=self.rows,
            buckets=self.buckets.tolist(),
            drawn={f"{name:012x}": rows for name, rows in sorted(self.drawn.items())},
            below=None if self.below is None else f"{self.below:012x}",
            frequent=self._most_frequent(_NAMED),
        )


def word_hash(word: str) -> int:
    """Return the hash of a word: 48 bits of its BLAKE2b digest, which is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6).digest(), "big")


def _once(row: Ints, item: Ints, items: int) -> tuple[Ints, Ints]:
    """Return the unique pairs of row and item, ordered by row."""
    both = np.unique(row.astype(np.int64) * items + item)
    return both // items, both % items


def _total(where: Ints, rows: Ints, size: int) -> list[int]:
    found: list[int] = np.bincount(where, rows, size).astype(np.int64).tolist()
    return found


def _slices(values: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield the bounds of slices with at most 4 MB of text (or one value) each, which bounds memory."""
    ends = np.cumsum(pc.binary_length(values).to_numpy(zero_copy_only=False), dtype=np.int64)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BYTES_AT_ONCE, side="right")))
        yield start, stop
        start = stop
