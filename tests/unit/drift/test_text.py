"""Text: categories with few values, lengths and words beyond, independent of the order of rows."""

from __future__ import annotations

import json
import random as python_random
import re
import uuid
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.core.counts import counted
from airflow_mlops.drift.findings import Drift
from airflow_mlops.drift.univariate import compare
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.columns import categorical, text
from airflow_mlops.profiles.columns.text import BUCKETS, TextColumn, as_text, word_hash
from airflow_mlops.profiles.profile import Profile, merge, profile
from tests.support.columns import texts, window_rows


def of(values, rows: int = 10_000) -> Profile:
    return profile(pa.table({"x": pa.array(values, pa.string())}).to_batches(max_chunksize=rows))


def only(reference, current, **policy) -> Drift:
    first, second = (item if isinstance(item, Profile) else of(item) for item in (reference, current))
    (found,) = compare(first, second, Policy(**{"min_rows": 1, **policy}))
    return found


@pytest.fixture(scope="module")
def reference() -> Profile:
    return of(texts(np.random.default_rng(0), 6_000))


def test_text_is_categorical_until_there_are_too_many_values_or_too_much_text():
    few = of([f"a {number}" for number in range(4_096)] * 2).columns["x"]
    assert (few.kind, few.distinct) == ("categorical", 4_096)
    many = of([f"a {number}" for number in range(4_097)] * 2).columns["x"]
    assert isinstance(many, TextColumn)
    assert (many.lengths.valid, many.words.rows, many.words.frequent[0]) == (8_194, 8_194, ("a", 8_194))
    assert of([f"{'long ' * 100}{number}" for number in range(64)]).columns["x"].kind == "categorical"
    assert of([f"{'long ' * 100}{number}" for number in range(66)]).columns["x"].kind == "text"


WRITTEN = st.lists(
    st.one_of(
        st.none(),
        st.text(max_size=20),
        st.lists(st.sampled_from(["Ä", "ä", "ß", "a", "b,", "🙂", "नमस्ते"])).map(" ".join),
    ),
    max_size=60,
)


@given(WRITTEN, st.integers(1, 50), st.randoms())
@settings(max_examples=60, deadline=None)
def test_counts_are_exact_for_any_order_and_division_of_rows(values, cut, random):
    # The limit is small, so that few values exceed it.
    limit, drawn = categorical._MOST_VALUES, text.DRAWN
    categorical._MOST_VALUES, text.DRAWN = 5, 7
    try:
        whole = of(values).columns.get("x")
        shuffled = list(values)
        random.shuffle(shuffled)
        divided = merge([of(shuffled[:cut], 7), of(shuffled[cut:], 3)]) if shuffled[:cut] and shuffled[cut:] else None
    finally:
        categorical._MOST_VALUES, text.DRAWN = limit, drawn
    if whole is None or divided is None:
        return
    other = divided.columns["x"]
    assert whole.kind == other.kind
    known = [value for value in values if value is not None]
    assert (whole.kind == "text") == (len(set(known)) > 5)
    if whole.kind != "text":
        return
    assert other.words == whole.words
    assert (other.rows, other.missing) == (whole.rows, whole.missing) == (len(values), len(values) - len(known))
    assert (whole.lengths.valid, whole.lengths.min, whole.lengths.max) == (
        len(known),
        *(f(map(len, known)) for f in (min, max)),
    )
    assert other.lengths == whole.lengths
    assert Profile.model_validate_json(divided.model_dump_json()) == divided


def test_words_count_once_per_row_in_lower_case_without_separators():
    rows = ["Delayed, DELAYED delayed!", "on time", "nospace", "", "  ", "schöne GRÜẞE", None]
    found = as_text(of(rows).columns["x"])
    counted = dict(found.words.frequent)
    assert counted == {"delayed": 1, "on": 1, "time": 1, "schöne": 1, "grüße": 1}
    assert found.words.rows == 3
    for word, count in counted.items():
        assert found.words.buckets[word_hash(word) % BUCKETS] >= count
    # Only one word of each row counts: the word with the smallest hash.
    drawn = [min(map(word_hash, words)) for words in (["delayed"], ["on", "time"], ["schöne", "grüße"])]
    assert found.words.drawn == {f"{name:012x}": 1 for name in sorted(drawn)}


def test_hashes_are_reproducible():
    assert (word_hash("refund"), word_hash("schöne")) == (247109488245000, 114322602628709)


def test_memory_and_profile_are_bounded_for_any_number_of_words():
    random = python_random.Random(0)
    rows = [" ".join(uuid.UUID(int=random.getrandbits(128)).hex for _ in range(8)) for _ in range(8_000)]
    column = of(rows, 1_000).columns["x"]
    assert len(column.words.drawn) == text.DRAWN
    assert max(column.words.drawn) < column.words.below
    assert sum(column.words.buckets) > 60_000
    assert len(column.model_dump_json()) < 250_000


def drawn(values: pa.Array) -> dict[int, int]:
    return Counter(min(map(word_hash, value.split(" "))) for value in values.to_pylist() if " " in value)


def test_drawn_words_with_the_smallest_hashes_are_kept_with_all_rows(monkeypatch):
    monkeypatch.setattr(text, "DRAWN", 20)
    values = texts(np.random.default_rng(7), 6_000)
    expected = drawn(values)
    smallest = sorted(expected)[:21]
    whole = of(values, 500)
    words = whole.columns["x"].words
    assert {int(name, 16): rows for name, rows in words.drawn.items()} == {
        name: expected[name] for name in smallest[:20]
    }
    assert int(words.below, 16) == smallest[20]
    parts = [of(values[start : start + 1_500], 400) for start in range(0, 6_000, 1_500)]
    for merged in (merge([whole]), merge(parts), merge(parts[::-1]), merge([whole, of([""] * 5)])):
        assert merged.columns["x"].words.drawn == words.drawn
        assert merged.columns["x"].words.below == words.below


def test_words_beyond_the_limit_of_one_profile_are_not_new(monkeypatch):
    random = np.random.default_rng(8)
    first, second = texts(random, 6_000), texts(random, 3_000)
    monkeypatch.setattr(text, "DRAWN", 20)
    cut = of(first)
    monkeypatch.undo()
    below = int(cut.columns["x"].words.below, 16)
    known = drawn(first)
    new = sum(rows for name, rows in drawn(second).items() if name < below and name not in known)
    found = only(cut, second)
    assert (found.unseen, found.drifted) == (pytest.approx(new / 3_000), False)


def test_codes_have_lengths_but_no_words(reference):
    codes = [uuid.UUID(int=number * 2**90 + 7).hex for number in range(3_000)]
    column = of(codes).columns["x"]
    assert (column.kind, column.free, column.words.rows) == ("text", True, 0)
    same = only(codes, [code[::-1] for code in codes[:400]])
    assert (same.drifted, "words" in same.p_values) == (False, False)
    shorter = only(codes, [code[:20] for code in codes[:400]])
    assert (shorter.drifted, shorter.effect, shorter.p_values["ks"] < 1e-9) == (True, 1, True)


def test_many_repeated_values_are_compared_as_categories():
    random = np.random.default_rng(1)
    shares = 1 / np.arange(1, 2_001)
    airports = [f"APT{number}" for number in range(2_000)]
    first, second = (random.choice(airports, 40_000, p=shares / shares.sum()) for _ in range(2))
    found = only(list(first), list(second))
    assert (found.drifted, found.total_variation < 0.05, "chi_square" in found.p_values) == (False, True, True)
    moved = [value if number % 4 else "APT7" for number, value in enumerate(second)]
    assert only(list(first), moved).test == "chi_square"


def test_unchanged_text_has_not_drifted_for_any_window_size(reference):
    for rows in (60, 600, 6_000):
        found = only(reference, texts(np.random.default_rng(rows), rows))
        assert (found.kind, found.drifted, found.tests) == ("text", False, 4)


def test_a_new_word_is_found_and_named(reference):
    found = texts(np.random.default_rng(1), 500)
    complaint = pa.array(
        [f"{value} refund" if number % 10 == 0 else value for number, value in enumerate(found.to_pylist())]
    )
    drift = only(reference, complaint)
    assert (drift.drifted, drift.test) == (True, "words")
    assert drift.effect == pytest.approx(0.1, abs=0.03)
    assert re.search(r"“refund” .*\b10\.\d%", drift.note)
    shown = {item.label: item for item in drift.bins}
    assert shown["“refund”"].reference < 0.02 < shown["“refund”"].current


def test_a_changed_vocabulary_of_rare_words_is_found(reference):
    rare = np.char.add("autre", np.arange(100_000).astype(str))
    found = texts(np.random.default_rng(2), 2_000).to_pylist()
    other = [
        f"{rare[5 * number]} {rare[5 * number + 1]} {rare[5 * number + 2]}" if number % 10 == 0 else value
        for number, value in enumerate(found)
    ]
    drift = only(reference, other)
    assert drift.drifted
    assert drift.p_values["unseen"] < 1e-4
    assert drift.unseen > 0.1


def test_shorter_text_of_the_same_words_is_found(reference):
    drift = only(reference, texts(np.random.default_rng(3), 1_000, mean_words=6))
    assert (drift.drifted, drift.p_values["ks"] < 1e-6) == (True, True)
    lengths = texts(np.random.default_rng(3), 1_000, mean_words=6)
    expected = stats.ks_2samp(
        pc.utf8_length(texts(np.random.default_rng(0), 6_000)).to_numpy(), pc.utf8_length(lengths).to_numpy()
    )
    assert drift.ks == pytest.approx(expected.statistic, abs=0.01)


def test_the_p_value_of_words_is_that_of_fishers_exact_test():
    rows = ["alpha beta"] * 900 + ["alpha gamma"] * 100
    first, second = (
        [f"{value} {number % 800}{'x' * 60}" for number, value in enumerate(rows)],
        [f"{value} {number % 800}{'x' * 60}" for number, value in enumerate(rows[600:])],
    )
    drift = only(first, second)
    expected = stats.fisher_exact([[100, 900], [100, 300]]).pvalue
    buckets = sum(
        count >= 5 for count in np.add(*(as_text(of(part).columns["x"]).words.buckets for part in (first, second)))
    )
    # A word in every row is not tested.
    assert drift.p_values["words"] == pytest.approx(expected * (buckets - 1), rel=1e-9)


@pytest.mark.parametrize(
    "values", [[], ["one row"], [None] * 80, [""] * 80, ["same text"] * 80, ["🙂 🙂", "\u0000 \n", " ", "ǅ ß"] * 20]
)
def test_any_window_gets_a_finding(values, reference):
    current = profile([pa.record_batch({"x": pa.array(values, pa.string())})])
    found = only(reference, current, min_rows=50)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    if len(values) < 50:
        assert found.note.startswith(f"not measured: {counted(len(values), 'row')}, 50 ")
    else:
        assert found.drifted
        assert 0 <= found.effect <= 1


def test_a_category_that_becomes_text_is_compared_as_categories():
    found = only(["UA", "AA"] * 500, [f"text number {number}" for number in range(2_000)])
    assert (found.kind, found.drifted, found.test, found.effect) == ("categorical", True, "unseen", 1)


def test_the_false_alarm_rate_holds():
    """80 windows, each tested on its own at 5%."""
    random = np.random.default_rng(4)
    alarms = 0
    for number in range(80):
        if number % 20 == 0:
            before = of(texts(random, 3_000))
        alarms += only(before, texts(random, window_rows(random, 2_000)), min_effect=0).p_value <= 0.05
    assert stats.binom.sf(alarms - 1, 80, 0.05) > 1e-3
