"""The streamed join of labels equals a join in memory, for keys and labels of all types."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data import relational
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.lookup import Tally, _complete, look_up
from airflow_mlops.stages.join_labels.sources import sources
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

T0 = datetime(2024, 3, 5, tzinfo=timezone.utc)
# Values that are equal, or only look equal.
KINDS = {
    pa.int64(): [0, 1, 2**53 + 1, -(2**63)],
    pa.uint64(): [0, 2**63, 2**64 - 1],
    pa.float64(): [0.0, -0.0, 1.0, 2.5, float("nan"), float("inf")],
    pa.float32(): [0.0, -0.0, float("nan")],
    pa.bool_(): [True, False],
    pa.string(): ["", "a", "A", "a\0", "ä", "01"],
    pa.large_string(): ["a", "b"],
    pa.binary(): [b"", b"\xff"],
    pa.decimal128(10, 2): [Decimal("0.00"), Decimal("2.50")],
    pa.decimal128(38, 0): [Decimal(0), Decimal(10) ** 30],
    pa.timestamp("us", "UTC"): [T0, T0 + timedelta(microseconds=1)],
    pa.timestamp("ns"): [0, 1, 1000],
    pa.date32(): [date(2024, 3, 5), date(1, 1, 1)],
    pa.dictionary(pa.int32(), pa.string()): ["a", "b"],
    pa.null(): [None],
}


def columns(kind: pa.DataType, rows: int) -> st.SearchStrategy[pa.Array]:
    values = st.lists(st.sampled_from([None, *KINDS[kind]]), min_size=rows, max_size=rows)
    if pa.types.is_dictionary(kind):
        return values.map(lambda found: pa.array(found, kind.value_type).dictionary_encode())
    return values.map(lambda found: pa.array(found, kind))


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Table, pa.Table, dict[str, str]]:
    # Keys are compared in microseconds.
    kinds = [kind for kind in KINDS if kind != pa.timestamp("ns")]
    keys = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=2))
    rows, known = draw(st.integers(0, 8)), draw(st.integers(0, 10))
    left = {f"k{n}": draw(columns(kind, rows)) for n, kind in enumerate(keys)}
    right = {f"k{n}": draw(columns(kind, known)) for n, kind in enumerate(keys)}
    right["y"] = draw(columns(draw(st.sampled_from(list(KINDS))), known))
    right["at"] = draw(
        columns(draw(st.sampled_from([pa.timestamp("ns"), pa.date32(), pa.float64(), pa.int64()])), known)
    )
    right["version"] = draw(columns(draw(st.sampled_from([pa.int64(), pa.decimal128(10, 2)])), known))
    orders = {"labels_timestamp": "at", "labels_version": "version"}
    return (
        pa.table(left),
        pa.table(right),
        {name: orders[name] for name in draw(st.sets(st.sampled_from(sorted(orders))))},
    )


def same_key(value: object) -> object:
    """Return what equal keys have in common: -0.0 is 0.0. Null and NaN equal nothing."""
    return repr(value + 0.0) if isinstance(value, float) else value


def in_memory(left: pa.Table, right: pa.Table, orders: dict[str, str]) -> list[object]:
    """Choose the row of the label of each prediction by the rules of the documentation, or ``"several"``."""

    def key(row: dict) -> tuple | None:
        values = [row[name] for name in left.column_names]
        missing = any(value is None or value != value for value in values)
        return None if missing else tuple(map(same_key, values))

    def rank(value: object) -> tuple:
        return (0,) if value is None or value != value else (1, value)

    exact = right.set_column(right.schema.get_field_index("at"), "at", _comparable(right["at"]))
    rows = [{**row, "row": number} for number, row in enumerate(exact.to_pylist())]
    values = [_identity(value) for value in right["y"].combine_chunks()]
    decisive = orders.get("labels_version") or orders.get("labels_timestamp")
    chosen: list[object] = []
    for prediction in left.to_pylist():
        found = [row for row in rows if key(row) is not None and key(row) == key(prediction)]
        if decisive:
            best = max((rank(row[decisive]) for row in found), default=None)
            found = [row for row in found if rank(row[decisive]) == best]
        elif any(values[row["row"]] is not None for row in found):
            found = [row for row in found if values[row["row"]] is not None]
        if len({values[row["row"]] for row in found}) > 1:
            chosen.append("several")
            continue
        # The earliest known time, and then the last row.
        by_time = "labels_timestamp" in orders
        found.sort(key=lambda row: (rank(row["at"])[0] if by_time else 0, row["row"]))
        if by_time and found and rank(found[-1]["at"])[0]:
            known = [row for row in found if rank(row["at"])[0]]
            earliest = min(rank(row["at"]) for row in known)
            found = [row for row in known if rank(row["at"]) == earliest]
        chosen.append(found[-1]["row"] if found else None)
    return chosen


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


def _identity(value: pa.Scalar) -> object:
    """Return what equal labels have in common. Null and NaN are no labels."""
    if not value.is_valid:
        return None
    if pa.types.is_timestamp(value.type):
        return value.cast(pa.int64()).as_py()
    plain = value.as_py()
    return None if plain != plain else plain


LARGE = {
    "k0": [0],
    "y": pa.array([Decimal(10) ** 30]),
    "at": pa.nulls(1, pa.date32()),
    "version": pa.nulls(1, pa.int64()),
}


ZEROS = {**LARGE, "k0": [0, 0], "y": [0.0, -0.0], "at": pa.nulls(2, pa.date32()), "version": pa.nulls(2, pa.int64())}


@given(cases())
@example((pa.table({"k0": [0]}), pa.table(ZEROS), {}))
@example((pa.table({"k0": [0]}), pa.table(LARGE), {}))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_streamed_join_equals_the_join_in_memory(tmp_path, case):
    left, right, orders = case
    store = ArtifactStore(f"file://{tmp_path}/store")
    predictions, labels = (_written(store, name, table) for name, table in (("p", left), ("l", right)))
    spec = JoinLabelsSpec(
        predictions=predictions.ref, labels=labels.ref, on=left.column_names, label="y", name="o", **orders
    )
    keys, known = sources([predictions], [labels], spec, {})
    tally = Tally()
    with relational.connect("100MB") as connection:
        found = list(look_up(connection, keys, known, tally))
    expected = in_memory(left, right, orders)
    several = [row for row, chosen in enumerate(expected) if chosen == "several"]
    assert (tally.contradicted, tally.first_contradicted) == (len(several), next(iter(several), None))
    if found and not several:
        label = pa.concat_tables(found)["label"].combine_chunks()
        places = pa.array(expected, pa.int64())
        wanted = right["y"].combine_chunks()
        if pa.types.is_decimal(wanted.type):
            # Whole decimals that fit into 64 bits are integers. Other decimals are doubles.
            number = int if pa.types.is_integer(label.type) else float
            values = [None if row is None else wanted[row].as_py() for row in expected]
            assert label.to_pylist() == [None if value is None else number(value) for value in values]
        else:
            # equals() distinguishes neither -0.0 from 0.0 nor one NaN from another; their texts do.
            assert label.type == wanted.type
            assert str(label.to_pylist()) == str(wanted.take(places).to_pylist())
    unmatched = [row for _, table in tally.unmatched(keys.tables()) for row in table.to_pylist()]
    assert len(unmatched) == tally.rows - tally.matched == sum(chosen is None for chosen in expected)


def _written(store: ArtifactStore, name: str, table: pa.Table, **details: object):
    with DatasetWriter(store, name) as writer:
        writer.write(table)
        return open_dataset(store, writer.commit(details=details)[0].ref)


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
@settings(deadline=None)
def test_all_pairs_of_a_prediction_are_in_one_table(repeats, size):
    rows = [row for row, repeat in enumerate(repeats) for _ in range(repeat)]
    table = pa.table({"prediction_row": pa.array(rows, pa.int64())})
    tables = [part["prediction_row"].to_pylist() for part in _complete(iter(table.to_batches(size)))]
    assert [row for part in tables for row in part] == rows
    seen = [row for part in tables for row, _ in groupby(part)]
    assert len(seen) == len(set(seen))


def test_a_join_larger_than_memory_continues_on_disk(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    ids = np.random.default_rng(0).permutation(600_000)
    predictions = _written(store, "p", pa.table({"id": ids}))
    labels = _written(store, "l", pa.table({"id": np.arange(600_000), "y": np.arange(600_000) * 3}))
    spec = JoinLabelsSpec(predictions=predictions.ref, labels=labels.ref, on=["id"], label="y", name="o")
    keys, known = sources([predictions], [labels], spec, {})
    with relational.connect("40MB") as connection:
        found = pa.concat_tables(look_up(connection, keys, known, Tally()))
    assert np.array_equal(found["label"].to_numpy(), ids * 3)


def test_an_error_of_a_table_is_raised_unchanged():
    def rows():
        yield pa.RecordBatch.from_pydict({"n": [1]})
        raise SchemaError("Column 'n' contains 'x'.")

    with relational.connect("100MB") as connection, pytest.raises(SchemaError, match="Column 'n' contains 'x'"):
        list(relational.stream(connection, "SELECT sum(n) FROM t", {"t": (pa.schema([("n", pa.int64())]), rows())}))


def test_nan_counts_as_no_label(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    predictions = _written(store, "nan_p", pa.table({"k": [1, 2, 3, 4], "score": [0.5] * 4}), model="late")
    labels = _written(store, "nan_l", pa.table({"k": [1, 2, 3], "y": pa.array([1.0, float("nan"), None])}))
    spec = JoinLabelsSpec(predictions=predictions.ref, labels=labels.ref, on=["k"], label="y", name="o")
    result = join_labels.run(spec, StepContext(store))
    assert (result.labelled, result.coverage) == (1, 0.25)


def test_an_infinite_label_is_refused(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    predictions = _written(store, "inf_p", pa.table({"k": [1, 2, 3], "score": [0.5] * 3}), model="late")
    labels = _written(store, "inf_l", pa.table({"k": [1, 2, 4], "y": [1.0, float("-inf"), float("inf")]}))
    spec = JoinLabelsSpec(predictions=predictions.ref, labels=labels.ref, on=["k"], label="y", name="o")
    with pytest.raises(SchemaError, match="'y' of dataset inf_l is infinite for 1 prediction"):
        join_labels.run(spec, StepContext(store))


def weights(store: ArtifactStore, right: pa.Table, **orders) -> list[object]:
    """Join labels with the weights in their rows, and return the label and the weight of each prediction."""
    predictions = _written(store, "weighted_p", pa.table({"k": [1, 2, 3]}))
    labels = _written(store, "weighted_l", right)
    spec = JoinLabelsSpec(
        predictions=predictions.ref, labels=labels.ref, on=["k"], label="y", name="o", sample_weight="w", **orders
    )
    keys, known = sources([predictions], [labels], spec, {})
    tally = Tally()
    with relational.connect("100MB") as connection:
        found = pa.concat_tables(look_up(connection, keys, known, tally))
    if tally.contradicted:
        return ["several"]
    return [tuple(row.values()) for row in found.select(["label", "w"]).to_pylist()]


@pytest.mark.parametrize("kind", [pa.float64(), pa.int64(), pa.decimal128(10, 2)])
def test_the_weight_in_the_row_of_the_label_is_joined(tmp_path, kind):
    store = ArtifactStore(f"file://{tmp_path}/store")
    once = pa.table({"k": [1, 2], "y": [True, None], "w": pa.array([4, 7], kind)})
    assert weights(store, once) == [(True, 4), (None, 7), (None, None)]
    # A correction has its own weight.
    twice = pa.table({"k": [1, 2, 1], "y": [True, False, True], "w": pa.array([4, 7, 6], kind), "v": [2, 1, 1]})
    assert weights(store, twice, labels_version="v") == [(True, 4), (False, 7), (None, None)]
    # Without an order of the labels, it is unknown which weight is valid. The weight of a row without a label does not
    # matter.
    assert weights(store, twice.drop_columns("v")) == ["several"]
    equal = pa.table({"k": [1, 2, 1], "y": [True, False, True], "w": pa.array([4, 7, 4], kind)})
    assert weights(store, equal) == [(True, 4), (False, 7), (None, None)]
    unlabelled = pa.table({"k": [1, 1, 2], "y": [None, None, True], "w": pa.array([4, 6, 7], kind)})
    assert [row[0] for row in weights(store, unlabelled)] == [None, True, None]


def test_weights_of_labels_are_numbers_under_a_name_of_their_own(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    with pytest.raises(SchemaError, match="`sample_weight` 'w' of dataset 'weighted_l' has the type string"):
        weights(store, pa.table({"k": [1], "y": [True], "w": ["4"]}))
    for column, said in (("score", "'score' is the name of another column of predictions"), ("k", "'k' is in `on`")):
        with pytest.raises(ValueError, match=said):
            JoinLabelsSpec(
                predictions={"name": "p"}, labels={"name": "l"}, on=["k"], label="y", name="o", sample_weight=column
            )


def test_the_weights_of_the_labels_replace_those_in_the_predictions(tmp_path):
    store = ArtifactStore(f"file://{tmp_path}/store")
    details = {"model": "late", "model_version": 1, "hashed": ["w", "k2"], "dropped": ["z"], "hash_key_id": "0"}
    for kind in (pa.nulls(2, pa.float64()), pa.array(["f0", "f1"])):
        with DatasetWriter(store, "late_predictions") as writer:
            writer.write(pa.table({"k": [1, 2], "w": kind, "k2": ["a", "b"], "score": [0.5, 0.5]}))
            predictions = writer.commit(details=details)[0].ref
        labels = _written(store, "late_labels", pa.table({"k": [2], "y": [True], "w": [4.5]}))
        spec = JoinLabelsSpec(
            predictions=predictions, labels=labels.ref, on=["k"], label="y", name="o", sample_weight="w"
        )
        joined = open_dataset(store, join_labels.run(spec, StepContext(store)).dataset)
        assert joined.table().to_pylist() == [
            {"k": 1, "k2": "a", "score": 0.5, "label": None, "w": None},
            {"k": 2, "k2": "b", "score": 0.5, "label": True, "w": 4.5},
        ]  # fmt: skip
        # Monitoring would treat a hashed column as a column without values.
        assert (joined.manifest.details["hashed"], joined.manifest.details["dropped"]) == (["k2"], ["z"])
