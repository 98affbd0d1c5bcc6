"""The drift of a column of free text: of its lengths, of its vocabulary, and of words that training never had.

Vocabulary: the share of rows in which the words of a bucket occur, for each bucket a test of two shares; the smallest
p-value times the number of buckets. New words: of each row one word is drawn, and rows whose word was never drawn at
training are counted, beyond what the rare ones in both lead one to expect.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from airflow_mlops.drift import numeric as numeric_drift
from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.text import BUCKETS, TextColumn, Words, as_text, word_hash
from airflow_mlops.profiles.significance import Pair, Test

# With fewer rows in both together a bucket cannot tell.
_LEAST = 5
_TESTED = 12
_SHOWN = 8


def compare(reference: TextColumn, found: CategoricalColumn) -> tuple[dict[str, Any], list[Test]]:
    """The measures of a :class:`~airflow_mlops.drift.findings.Drift`, which are those of the lengths, and the tests that
    decide.
    """
    current = as_text(found)
    measured, tests = numeric_drift.compare(reference.lengths, current.lengths)
    lengths = [bar.model_copy(update={"label": f"length {bar.label}"}) for bar in measured["bins"]]
    measured["bins"] = lengths
    if not current.valid or not (reference.words.rows or current.words.rows):
        return measured, tests
    before, now = (np.asarray(column.words.buckets, dtype=float) for column in (reference, current))
    test, surest = _vocabulary(Pair(before, now), reference.valid, current.valid)
    if test is not None:
        tests = [*tests, test]
        names = _names(reference.words, current.words)
        p, q = before / reference.valid, now / current.valid
        known = [(names[bucket], p[bucket], q[bucket]) for bucket in surest if bucket in names]
        measured["bins"] = [
            *(Bin(label=f"“{name}”", reference=old, current=new) for name, old, new in known[:_SHOWN]),
            *lengths,
        ]
        if known and surest[0] in names and test.p_value <= 0.05:
            name, old, new = known[0]
            measured["note"] = f"words like “{name}” are in {new:.1%} of the rows, and were in {old:.1%}"
    pair = _drawn(reference.words, current.words)
    if pair.before.sum() and pair.now.sum():
        unseen = float(pair.now[pair.before == 0].sum() / current.valid)
        measured["unseen"] = unseen
        tests = [*tests, Test("unseen", unseen, significance.never_seen(pair))]
    return measured, tests


def _vocabulary(rows: Pair, valid_before: int, valid_now: int) -> tuple[Test | None, list[int]]:
    """The test of all buckets, and the buckets that moved most, the surest first."""
    p, q = rows.before / valid_before, rows.now / valid_now
    share = rows.total / (valid_before + valid_now)
    told = (rows.total >= _LEAST) & (share < 1)
    if not told.any():
        return None, []
    spread = np.sqrt(np.where(told, share * (1 - share), 1) * (1 / valid_before + 1 / valid_now))
    distance = np.where(told, np.abs(p - q) / spread, -1)
    # The exact test of a few stands for that of all: the others are hardly surer, and left out they raise no alarm.
    surest = [int(bucket) for bucket in np.argsort(-distance, kind="stable")[:_TESTED] if told[bucket]]
    p_values = [significance.fisher(_with_and_without(rows, bucket, valid_before, valid_now)) for bucket in surest]
    order = sorted(range(len(surest)), key=lambda index: (p_values[index], -distance[surest[index]]))
    surest = [surest[index] for index in order]
    p_value = min(1.0, min(p_values) * int(told.sum()))
    return Test("words", float(abs(p - q)[surest[0]]), p_value), surest


def _with_and_without(rows: Pair, bucket: int, valid_before: int, valid_now: int) -> Pair:
    before, now = rows.before[bucket], rows.now[bucket]
    return Pair(np.asarray([before, valid_before - before]), np.asarray([now, valid_now - now]))


def _names(reference: Words, current: Words) -> dict[int, str]:
    """For each bucket the word of those known by name whose rows moved most."""
    old, new = dict(reference.frequent), dict(current.frequent)
    moved = {
        name: abs(old.get(name, 0) / max(1, reference.rows) - new.get(name, 0) / max(1, current.rows))
        for name in sorted({*old, *new})
    }
    return {word_hash(name) % BUCKETS: name for name in sorted(moved, key=lambda name: moved[name])}


def _drawn(reference: Words, current: Words) -> Pair:
    """Rows of each word that was drawn, of those words that were counted in both."""
    ends = [int(words.below, 16) for words in (reference, current) if words.below is not None]
    names = sorted({*reference.drawn, *current.drawn})
    counted = [name for name in names if not ends or int(name, 16) < min(ends)]
    return Pair(*(_rows(words, counted) for words in (reference, current)))


def _rows(words: Words, names: list[str]) -> Floats:
    return np.asarray([words.drawn.get(name, 0) for name in names], dtype=float)
