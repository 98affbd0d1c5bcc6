"""Drift of free-text columns. Three tests compare text lengths, vocabulary and unseen words.

The test of the vocabulary divides words into buckets by hash. For the buckets that differ most, Fisher's exact test
compares the share of rows with a word of the bucket. The smallest p-value is multiplied by the number of buckets with
enough rows (Bonferroni).

The test of unseen words uses one word that the profile draws from each row. The test counts the rows whose drawn word
was never drawn in the reference. It compares this count with the count that is expected from the rare words of both
samples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from airflow_mlops.drift import numeric
from airflow_mlops.drift.comparison import Comparison, Test
from airflow_mlops.drift.findings import Bin
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.categorical import CategoricalColumn
from airflow_mlops.profiles.columns.text import BUCKETS, TextColumn, Words, as_text, word_hash
from airflow_mlops.profiles.significance import Pair

# A bucket with fewer rows in both samples together has too little power to be tested.
_MIN_ROWS = 5
# Number of buckets that are tested exactly, and number of words in the histogram of the report.
_TESTED, _DRAWN = 12, 8


def compare(reference: TextColumn, found: CategoricalColumn, design: float = 1.0) -> Comparison:
    """Compare two columns of free text. The measures (PSI and others) are computed from the text lengths.

    :param reference: profile of the reference column, with at least one non-null value
    :param found: profile of the column in the window. It is categorical if the column has few distinct values
    :param design: the design effect of clustered rows, see :mod:`airflow_mlops.drift.clusters`
    """
    current = as_text(found)
    lengths = numeric.compare(reference.lengths, current.lengths, design)
    lengths = replace(lengths, bins=[bar.prefixed("length") for bar in lengths.bins])
    if not current.valid or not (reference.words.rows or current.words.rows):
        return lengths
    comparison = _with_vocabulary(lengths, reference, current, design)
    pair = _drawn_words(reference.words, current.words)
    if not (pair.before.sum() and pair.now.sum()):
        return comparison
    unseen = float(pair.now[pair.before == 0].sum() / current.valid)
    test = Test("unseen", unseen, significance.unseen_values(pair.thinned(design)))
    return replace(comparison, unseen=unseen, tests=[*comparison.tests, test])


def _with_vocabulary(lengths: Comparison, reference: TextColumn, current: TextColumn, design: float) -> Comparison:
    """Add a drift test of the vocabulary, and the words that changed most, to the comparison of text lengths.

    The comparison is returned unchanged if no bucket of words has enough rows for a test.
    """
    rows = Pair(*(np.asarray(column.words.buckets, dtype=float) for column in (reference, current)))
    test, ordered = _vocabulary(rows.thinned(design), reference.valid / design, current.valid / design)
    if test is None:
        return lengths
    words = _words_by_bucket(reference.words, current.words)
    p, q = rows.before / reference.valid, rows.now / current.valid
    named = [(words[bucket], float(p[bucket]), float(q[bucket])) for bucket in ordered if bucket in words]
    note = None
    if named and ordered[0] in words and test.p_value <= 0.05:
        word, old, new = named[0]
        note = f"words like “{word}” are in {new:.1%} of the rows, and were in {old:.1%}"
    bars = [Bin(label=f"“{word}”", reference=old, current=new) for word, old, new in named[:_DRAWN]]
    return replace(lengths, tests=[*lengths.tests, test], note=note, bins=[*bars, *lengths.bins])


def _vocabulary(rows: Pair, valid_before: float, valid_now: float) -> tuple[Test | None, list[int]]:
    """Test whether the share of rows with a word changed in any bucket.

    :param rows: number of rows with a word of each bucket, shape (BUCKETS,)
    :param valid_before: effective number of non-null rows in the reference
    :param valid_now: effective number of non-null rows in the window
    :return: two items: the test (``None`` if no bucket can be tested), and the buckets that changed most, ordered by
        p-value
    """
    p, q = rows.before / valid_before, rows.now / valid_now
    share = rows.total / (valid_before + valid_now)
    testable = (rows.total >= _MIN_ROWS) & (share < 1)
    if not testable.any():
        return None, []
    spread = np.sqrt(np.where(testable, share * (1 - share), 1) * (1 / valid_before + 1 / valid_now))
    distance = np.where(testable, np.abs(p - q) / spread, -1)
    # The exact test is slow, so only the buckets with the largest distances are tested. Without the other buckets, the
    # smallest p-value can only be larger, so the test stays valid.
    chosen = [int(bucket) for bucket in np.argsort(-distance, kind="stable")[:_TESTED] if testable[bucket]]
    p_values = [significance.fisher(_with_and_without(rows, bucket, valid_before, valid_now)) for bucket in chosen]
    order = sorted(range(len(chosen)), key=lambda index: (p_values[index], -distance[chosen[index]]))
    ordered = [chosen[index] for index in order]
    p_value = min(1.0, min(p_values) * int(testable.sum()))
    return Test("words", float(abs(p - q)[ordered[0]]), p_value), ordered


def _with_and_without(rows: Pair, bucket: int, valid_before: float, valid_now: float) -> Pair:
    before, now = rows.before[bucket], rows.now[bucket]
    return Pair(np.asarray([before, valid_before - before]), np.asarray([now, valid_now - now]))


def _words_by_bucket(reference: Words, current: Words) -> dict[int, str]:
    """Return one word for each bucket that contains a frequent word: the one whose share of rows changed most."""
    old, new = dict(reference.frequent), dict(current.frequent)
    change = {
        word: abs(old.get(word, 0) / max(1, reference.rows) - new.get(word, 0) / max(1, current.rows))
        for word in sorted({*old, *new})
    }
    return {word_hash(word) % BUCKETS: word for word in sorted(change, key=lambda word: change[word])}


def _drawn_words(reference: Words, current: Words) -> Pair:
    """Return the number of rows of each drawn word in both columns.

    Only words whose hash is small enough to be counted in both profiles are included.
    """
    limits = [int(words.below, 16) for words in (reference, current) if words.below is not None]
    hashes = sorted({*reference.drawn, *current.drawn})
    counted = [item for item in hashes if not limits or int(item, 16) < min(limits)]
    return Pair(*(_rows(words, counted) for words in (reference, current)))


def _rows(words: Words, hashes: list[str]) -> Floats:
    return np.asarray([words.drawn.get(item, 0) for item in hashes], dtype=float)
