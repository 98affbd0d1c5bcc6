"""The shards of a validation, see :mod:`airflow_mlops.stages.shards`.

A shard checks consecutive batches of the rows with the expectations about single rows, as executors do
(:mod:`airflow_mlops.stages.validate.spread`). With ``on_failure="quarantine"``, it also writes the valid and the failing
rows of each batch. The last shard merges the results, runs all other expectations and commits the datasets.

In addition to the objects of all shards, the folder of a round contains::

    facts/SHARD.json               the facts of the shard's rows, see :class:`~airflow_mlops.data.frames.ColumnFacts`
    results/SHARD-HASH.json        the results of the shard
    batches/HASH/valid, .../failing    the written files of a batch. HASH is a hash of its failing rows

The facts of all rows determine the type of a column in pandas. Mapped tasks do not wait for each other, so a shard
computes the facts of the shards that have not stored theirs yet.

Only the results of all shards show which rows fail: ``mostly`` applies to the rows of all shards, and an expectation of
unique values may find more failing rows. A shard assumes that an expectation fails if it fails for the rows of the
shard. If this is wrong for a batch, the last shard writes the batch again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow_mlops.core.errors import DatasetCorruptError
from airflow_mlops.core.fingerprints import canonical_json, fingerprint
from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import DatasetWriter, WrittenFiles
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.quarantine import quarantine_name, valid_name
from airflow_mlops.stages import shards
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.shards import require_intact
from airflow_mlops.stages.validate import batches, checkpoint, divided, one_part, single_rows
from airflow_mlops.stages.validate.divided import DividedRows
from airflow_mlops.stages.validate.merged import is_met
from airflow_mlops.stages.validate.numbers_as_text import with_whole_numbers
from airflow_mlops.stages.validate.parts import Part, pack
from airflow_mlops.stages.validate.row_numbers import RowNumbers
from airflow_mlops.stages.validate.rows import Rows
from airflow_mlops.stages.validate.spec import ValidateSpec
from airflow_mlops.stages.validate.splitting import Failing, failing_for, failing_rows, rounds_of
from airflow_mlops.stages.validate.times import with_time_bounds

if TYPE_CHECKING:
    import pyarrow as pa
    from great_expectations import ExpectationSuite

_NO_FILES = WrittenFiles(columns=[], files=[])


class Piece(shards.Piece):
    """The checked rows of one shard. Its files are stored by batch, and not in ``written``.

    :param checked: number of checked rows
    :param results: hash of the results; empty if the shard has no rows, or if all rows are validated at once
    """

    checked: int = 0
    results: str = ""


Round: TypeAlias = shards.Round[Piece]


def join(spec: ValidateSpec, context: StepContext) -> Round:
    """Return the round in which the task takes part as the shard ``spec.shard``.

    :raises SpecError: the step runs outside of Airflow, where the other shards are unknown; or all other shards have
        succeeded, but not in this round
    """
    return shards.join(spec, context, Piece, "validate")


def check(shard: Round, rows: Rows, suite: ExpectationSuite, *, write: bool) -> Piece:
    """Check the rows of a shard with the expectations about single rows, and store the results.

    If an earlier try has finished the shard, its piece is returned. If all rows are validated at once, no rows are
    checked.

    :param write: whether to write the valid and the failing rows
    :raises ValidationError: Great Expectations cannot run the expectations
    :raises SpecError: the bounds of an expectation do not fit a column of dates or times
    """
    if (found := shard.piece()) is not None:
        return found
    own = _batches(rows, shard.shard, shard.shards)
    if rows.fits or not own:
        return shard.add(Piece(written=_NO_FILES))
    known = [_facts(shard, rows, number) for number in _with_batches(rows, shard.shards, shard.shard)]
    facts = divided.merged(rows, (item for _, item in known))
    counts, _ = known[0]
    facts = with_whole_numbers(facts, suite)
    suite = with_time_bounds(suite, rows.schema.empty_table())
    streamed = batches.about_single_rows(suite, rows.schema)
    sent = batches.describe(streamed, rows.schema)
    columns = [single_rows.columns_of(streamed[number]) for number in sent]
    parts = one_part.check(rows, list(sent.values()), columns, facts, shard.shard, shard.shards)
    results = dict(zip(sent, parts, strict=True))
    content = canonical_json({fingerprint(sent[number]): part.to_json() for number, part in results.items()})
    digest = hashlib.sha256(content).hexdigest()
    shard.store.write_bytes(_results_key(shard, digest), content)
    if write:
        reasons = [
            (checkpoint.title_of(sent[number]["type"], sent[number]["kwargs"]), RowNumbers(results[number].rows))
            for number in _in_order_of_results(suite)
            if number in results
            and streamed[number].configuration.severity == "critical"
            and not is_met(results[number].counts, sent[number]["kwargs"].get("mostly", 1))
        ]
        for batch, first, count in zip(own, divided.firsts(counts), counts, strict=True):
            _write(shard, rows, batch, failing_rows(partial(failing_for, reasons), first, count))
    return shard.add(Piece(written=_NO_FILES, checked=sum(counts), results=digest))


class ShardedRows(DividedRows):
    """The rows of a validation, which shards have checked.

    :param rows: the rows
    :param shard: the shard that completes the validation
    :param pieces: the pieces of all shards, ordered by shard
    :raises DatasetCorruptError: the results of a shard were deleted or changed
    """

    def __init__(self, rows: Rows, shard: Round, pieces: Sequence[Piece]) -> None:
        super().__init__(rows)
        self._shard = shard
        self._numbers = sorted(_with_batches(rows, shard.shards))
        self._pieces = pieces
        # The results of one shard at a time are in memory.
        self._checked = [{*self._results(number)} for number in self._numbers]
        self._batches: list[int] = []

    def _facts_of_parts(self) -> list[tuple[int, dict[str, ColumnFacts]]]:
        found = [_facts(self._shard, self._rows, number) for number in self._numbers]
        self._batches = [count for counts, _ in found for count in counts]
        return [(sum(counts), facts) for counts, facts in found]

    def takes(self, expectation: Mapping[str, Any]) -> bool:
        # A function of the user may return another suite in each process.
        key = fingerprint(expectation)
        return all(key in keys for keys in self._checked)

    def check(
        self, expectations: Sequence[dict[str, Any]], columns: Sequence[Sequence[str]], facts: Mapping[str, ColumnFacts]
    ) -> Iterator[list[Part]]:
        keys = [fingerprint(one) for one in expectations]
        return (self._parts(number, keys) for number in self._numbers)

    def split(self, failing: Failing, valid: DatasetWriter, quarantine: DatasetWriter) -> tuple[int, int]:
        counts = [0, 0]
        for batch, span in enumerate(zip(divided.firsts(self._batches), self._batches, strict=True)):
            pieces = _write(self._shard, self._rows, batch, failing_rows(failing, *span))
            for number, (writer, piece) in enumerate(zip((valid, quarantine), pieces, strict=True)):
                require_intact(self._shard.store, piece.written, f"batch {batch} of {len(self._batches)}")
                counts[number] += piece.rows
                if piece.rows:
                    writer.include(piece.written)
        return counts[0], counts[1]

    def _parts(self, number: int, keys: Sequence[str]) -> list[Part]:
        results = self._results(number)
        return [Part.from_json(results[key]) for key in keys]

    def _results(self, number: int) -> dict[str, Any]:
        """Return the results of a shard for each expectation, by its fingerprint."""
        return _read_results(self._shard.of(number), self._pieces[number])


def _write(shard: Round, rows: Rows, batch: int, failing: pa.Table) -> tuple[shards.Piece, shards.Piece]:
    """Write the valid and the failing rows of a batch, unless a shard has already written them."""
    name, digest = rows.datasets[0].manifest.name, hashlib.sha256(pack(failing).encode()).hexdigest()[:16]
    places = rounds_of(shard.store, f"{shard.group}/{shard.number}/batches/{digest}", batch, rows.batch_count)
    names = (valid_name(name), quarantine_name(name))
    return one_part.write(shard.store, rows, failing, names, places, batch, rows.batch_count)


def _batches(rows: Rows, shard: int, count: int) -> Sequence[int]:
    """Return the numbers of the batches of a shard."""
    return row_spans.share(range(rows.batch_count), shard, count)


def _with_batches(rows: Rows, count: int, first: int = 0) -> list[int]:
    """Return the numbers of the shards that have batches: ``first``, the shards after it, and then those before it."""
    return [number % count for number in range(first, first + count) if _batches(rows, number % count, count)]


def _facts(shard: Round, rows: Rows, number: int) -> tuple[list[int], dict[str, ColumnFacts]]:
    """Return the number of rows of each batch of a shard, and the facts of its rows. Store them if they are missing."""
    key = f"{shard.folder}/facts/{number}.json"
    try:
        found = shard.store.read_json(key)
    except FileNotFoundError:
        parts = [one_part.facts(rows, batch, rows.batch_count) for batch in _batches(rows, number, shard.shards)]
        facts = divided.to_json(divided.merged(rows, (item for _, item in parts)))
        found = {"rows": [count for count, _ in parts], "facts": facts}
        # All processes compute the same facts.
        shard.store.create_exclusive(key, canonical_json(found))
    return found["rows"], divided.from_json(found["facts"])


def _in_order_of_results(suite: ExpectationSuite) -> list[int]:
    """Return the positions of the expectations in the order in which Great Expectations should return their results.

    If the order is different, the last shard writes those batches again in which a row fails several expectations.
    """
    groups: dict[Any, list[int]] = {}
    for number, expectation in enumerate(suite.expectations):
        groups.setdefault(getattr(expectation, "column", None), []).append(number)
    return [number for group in groups.values() for number in group]


def _read_results(shard: Round, piece: Piece) -> dict[str, Any]:
    """Return the results of a shard for each expectation, by its fingerprint."""
    key = _results_key(shard, piece.results)
    try:
        content = shard.store.read_bytes(key)
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != piece.results:
        raise DatasetCorruptError(
            f"The results of shard {shard.shard} of {shard.shards} were deleted or changed: {shard.store.url_of(key)}. Clear "
            "all shards of the task."
        )
    return dict(json.loads(content))


def _results_key(shard: Round, digest: str) -> str:
    return f"{shard.folder}/results/{shard.shard}-{digest[:16]}.json"
