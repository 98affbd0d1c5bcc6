"""Divide the held-out rows into slices by a column, or discover the slices where a candidate performs worst."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS, LEVELS, FEW = 4, 20, 12
LEARN_ROWS, DEPTH, LISTED = 50_000, 2, 4
_AT_ONCE = 65_536


@dataclass(frozen=True)
class Slice:
    """A subset of the held-out rows.

    :param name: condition of the slice, such as ``carrier = UA``
    :param index: positions of the rows, in ascending order
    """

    name: str
    index: NDArray[np.integer[Any]] = field(repr=False)


def by_column(name: str, values: pa.Array) -> Iterator[Slice]:
    """Divide the rows into slices by the value of one column.

    Numbers and times with more than twelve distinct values are binned at their quartiles. In other columns, each of the
    twenty most frequent values is a slice, and all other values together form another slice. Rows with a null also form
    a slice.

    :param name: name of the column
    :param values: values of the column in all rows, shape (n,)
    """
    missing = np.asarray(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False))
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_binned(values.type) and _has_many(values):
        yield from _bins(name, values, missing)
    else:
        yield from _levels(name, values.dictionary_encode(), missing)
    if missing.any():
        yield Slice(f"{name} missing", _positions(missing))


def _positions(chosen: NDArray[np.bool_]) -> NDArray[np.integer[Any]]:
    """Return the positions of the chosen rows. If 32-bit integers suffice, they are used, which halves the memory."""
    found = np.flatnonzero(chosen)
    return found.astype(np.int32) if len(chosen) < 2**31 else found


def _has_many(values: pa.Array) -> bool:
    """Return whether there are more than twelve distinct values. Null does not count."""
    found = values.slice(0, 0)
    for start in range(0, len(values), _AT_ONCE):
        found = pa.concat_arrays([found, values.slice(start, _AT_ONCE).drop_null()]).unique()
        if len(found) > FEW:
            return True
    return False


def _bins(name: str, values: pa.Array, missing: NDArray[np.bool_]) -> Iterator[Slice]:
    kind = values.type
    values = sortable(values)
    present = values.filter(pa.array(~missing))
    quartiles = pc.quantile(present, [part / BINS for part in range(1, BINS)], interpolation="higher").unique()
    least = pc.min(present)
    edges = [edge for edge in quartiles if pc.greater(edge, least).as_py()]
    number = bin_codes(values, edges)
    for count, words in enumerate(bin_names(name, [edge.cast(kind) for edge in edges])):
        yield Slice(words, _positions((number == count) & ~missing))


def bin_codes(values: pa.Array, edges: Sequence[pa.Scalar]) -> NDArray[np.int8]:
    """Return the number of the bin of each value, shape (n,). A bin includes its lower edge. A null is in bin 0."""
    number = np.zeros(len(values), np.int8)
    for edge in edges:
        number += pc.greater_equal(values, edge).fill_null(False).to_numpy(zero_copy_only=False)
    return number


def bin_names(name: str, edges: Sequence[pa.Scalar]) -> list[str]:
    """Return the names of the bins of a column, such as ``18 <= age < 30``."""
    words = [as_text(edge) for edge in edges]
    lows, highs = ["", *(f"{word} <= " for word in words)], [*(f" < {word}" for word in words), ""]
    return [f"{low}{name}{high}" for low, high in zip(lows, highs, strict=True)]


def _levels(name: str, encoded: pa.DictionaryArray, missing: NDArray[np.bool_]) -> Iterator[Slice]:
    codes = np.where(missing, -1, pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False))
    counts = np.bincount(codes[~missing], minlength=len(encoded.dictionary))
    texts = [as_text(value) for value in encoded.dictionary]
    order = sorted(np.flatnonzero(counts), key=lambda code: (-counts[code], texts[code]))
    names = level_names(name, [texts[code] for code in order])
    for code, words in zip(order[:LEVELS], names, strict=False):
        yield Slice(words, _positions(codes == code))
    if rest := order[LEVELS:]:
        yield Slice(names[-1], _positions(np.isin(codes, rest)))


def level_names(name: str, texts: Sequence[str]) -> list[str]:
    """Return the names of the slices of the most frequent values of a column, and of all its other values, if any.

    :param texts: the distinct values, the most frequent first
    """
    rest = len(texts) - LEVELS
    return [
        *(f"{name} = {text}" for text in texts[:LEVELS]),
        *([f"{name} = any of {rest:,} others"] if rest > 0 else []),
    ]


def is_binned(kind: pa.DataType) -> bool:
    """Return whether a column of this type with more than twelve distinct values is binned: numbers and times."""
    ordered = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    return any(is_kind(kind) for is_kind in ordered)


def sortable(values: pa.Array) -> pa.Array:
    """Return numbers unchanged, and times as integers."""
    if not pa.types.is_temporal(values.type):
        return values
    return values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64())


def as_text(value: pa.Scalar) -> str:
    """Return the text of a value in the name of a slice."""
    python = value.as_py()
    return f"{python:.6g}" if isinstance(python, float) else str(python)


def discover(
    excess: NDArray[np.float64],
    columns: Sequence[str],
    batches: Callable[[Sequence[str]], Iterable[pa.RecordBatch]],
    weight: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> list[Slice]:
    """Find slices with an excess loss. Different rows are used to find a slice and to test it.

    A regression tree of depth 2 (conditions on one or two columns) is fitted to ``excess``, on at most 50,000 rows of
    one random half. The nodes of the tree with a positive mean are the slices. The returned slices contain rows of the
    other half only, so a test on these slices needs no correction for the search (honest trees, S. Athey and G. Imbens,
    "Recursive Partitioning for Heterogeneous Causal Effects", PNAS 2016).

    :param excess: loss of the candidate minus loss of the champion for each row, shape (n,)
    :param columns: names of the columns to search
    :param batches: function that takes column names and yields these columns of all rows, in order
    :param weight: the weight of each row in the mean excess loss, shape (n,); ``None`` if all rows have the same weight
    :param seed: seed of the random halves and of the sample
    :return: the slices, in descending order of their mean excess loss in the first half; empty if no slice has an
        excess loss, or if the weights of all rows to which the tree is fitted are 0
    """
    random = np.random.default_rng(seed)
    half = random.random(len(excess)) < 0.5
    learn = np.zeros(len(excess), dtype=bool)
    learn[random.permutation(np.flatnonzero(half))[:LEARN_ROWS]] = True
    encoders = {name: _Encoder(name) for name in columns}
    read = list(_rows(columns, batches, learn))
    for name, encoder in encoders.items():
        encoder.fit(pa.chunked_array([_plain(batch.column(name)) for batch in read]).combine_chunks(), excess[learn])
    if weight is not None and not weight[learn].any():
        return []
    from sklearn.tree import DecisionTreeRegressor

    encoded = np.concatenate([_encode(encoders, batch) for batch in read])
    leaf = max(30, len(encoded) // 50)
    tree = DecisionTreeRegressor(max_depth=DEPTH, min_samples_leaf=leaf, random_state=0)
    tree.fit(encoded, excess[learn], sample_weight=None if weight is None else weight[learn])
    worst = [node for node in np.argsort(-tree.tree_.value[:, 0, 0]) if node and tree.tree_.value[node, 0, 0] > 0]
    if not worst:
        return []
    paths = [
        tree.decision_path(_encode(encoders, batch)).toarray()[:, worst].astype(bool)
        for batch in _rows(columns, batches, ~half)
    ]
    inside, where = np.concatenate(paths), np.flatnonzero(~half)
    names = _names(tree.tree_, list(encoders.values()))
    return [Slice(names[node], where[inside[:, number]]) for number, node in enumerate(worst)]


def _rows(
    columns: Sequence[str], batches: Callable[[Sequence[str]], Iterable[pa.RecordBatch]], chosen: NDArray[np.bool_]
) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches(columns):
        mine = chosen[start : start + batch.num_rows]
        start += batch.num_rows
        if mine.any():
            yield batch.filter(pa.array(mine))


def _plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _encode(encoders: dict[str, _Encoder], batch: pa.RecordBatch) -> NDArray[np.float32]:
    return np.stack([encoder.encode(_plain(batch.column(name))) for name, encoder in encoders.items()], axis=1)


class _Encoder:
    """Encodes a column as numbers for the regression tree.

    Numbers are rounded to single precision, and booleans become 0 and 1. Values of all other types are ordered by the
    mean excess loss of their rows, and each value is replaced by its position in this order. The best binary split of
    categories is always a split of this order (W. Fisher, "On Grouping for Maximum Homogeneity", 1958). Null becomes
    NaN.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: list[Any] | None = None
        self.has_missing = False

    def fit(self, values: pa.Array, excess: NDArray[np.float64]) -> None:
        self.has_missing = bool(pc.any(pc.is_null(values, nan_is_null=True)).as_py())
        if _is_number(values.type):
            return
        encoded = values.cast(pa.string()).dictionary_encode()
        size = len(encoded.dictionary) + 1
        codes = pc.fill_null(encoded.indices, size - 1).to_numpy(zero_copy_only=False)
        means = np.bincount(codes, excess, size) / np.maximum(1, np.bincount(codes, minlength=size))
        self.values = [encoded.dictionary[int(code)].as_py() for code in np.argsort(means[:-1])]

    def encode(self, values: pa.Array) -> NDArray[np.float32]:
        if self.values is None:
            return np.asarray(pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)
        places = pc.index_in(values.cast(pa.string()), pa.array(self.values, pa.string()))
        return np.asarray(pc.cast(places, pa.float32()).to_numpy(zero_copy_only=False), np.float32)

    def condition(self, threshold: float, below: bool) -> str:
        if self.values is None:
            return f"{self.name} {'<=' if below else '>'} {threshold:.6g}"
        split = int(threshold) + 1
        chosen = self.values[:split] if below else self.values[split:]
        listed = ", ".join(sorted(map(str, chosen))[:LISTED])
        more = f" and {len(chosen) - LISTED} more" if len(chosen) > LISTED else ""
        return f"{self.name} = {listed}{more}" if len(chosen) == 1 else f"{self.name} in {{{listed}{more}}}"


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def _names(tree: Any, encoders: Sequence[_Encoder]) -> dict[int, str]:
    """Return the conditions that lead to each node of the tree as text, by node number."""
    names: dict[int, str] = {0: ""}
    for node in range(tree.node_count):
        if tree.children_left[node] < 0:
            continue
        left_takes_missing = bool(tree.missing_go_to_left[node])
        for child, below in ((tree.children_left[node], True), (tree.children_right[node], False)):
            condition = encoders[tree.feature[node]].condition(float(tree.threshold[node]), below)
            if left_takes_missing == below and encoders[tree.feature[node]].has_missing:
                condition += " or missing"
            names[int(child)] = f"{names[node]} and {condition}" if names[node] else condition
    return names
