"""The events of a training set: their order, and their labels."""

from __future__ import annotations

import math
from datetime import date, datetime, timezone
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.data import spool
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.training_set import events as module
from airflow_mlops.stages.training_set.events import in_order, read_events, with_numbers
from airflow_mlops.stages.training_set.labels import LabelValues, require_classes
from airflow_mlops.stages.training_set.spec import TrainingSetSpec
from tests.support.one_duckdb import one_duckdb  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_duckdb")

KINDS = {
    "f": (pa.float64(), st.sampled_from([math.nan, -0.0, 0.0, -1.5, math.inf, -math.inf, None])),
    "i": (pa.int64(), st.sampled_from([-(2**63), 2**63 - 1, 0, None])),
    "u": (pa.uint64(), st.sampled_from([2**64 - 1, 0, None])),
    "s": (pa.string(), st.sampled_from(["", "a", "B", "é", "z\0", "z", "😀", None])),
    "y": (pa.binary(), st.sampled_from([b"", b"\xff", b"\x00a", None])),
    "b": (pa.bool_(), st.sampled_from([True, False, None])),
    "d": (pa.decimal128(38, 2), st.sampled_from([Decimal("-99999999999999999999.99"), Decimal("0.10"), None])),
    "t": (pa.date32(), st.sampled_from([date(1, 1, 1), date(9999, 12, 31), None])),
    "n": (pa.timestamp("ns", "UTC"), st.sampled_from([1, 999, 1_000, -1, None])),
    "h": (pa.float16(), st.sampled_from([0.5, -2.0, math.nan, None])),
    "o": (pa.duration("ns"), st.sampled_from([1, -1, None])),
    "m": (pa.time64("ns"), st.sampled_from([1, 2, None])),
    "j": (pa.int32(), st.sampled_from([-1, 2**31 - 1, None])),
    "g": (pa.large_string(), st.sampled_from(["", "a", None])),
    "e": (pa.struct([("x", pa.int64()), ("y", pa.string())]), st.sampled_from([{"x": 1, "y": None}, None])),
    "l": (pa.list_(pa.int64()), st.sampled_from([[], [1, None], None])),
    "z": (pa.null(), st.none()),
}
MOMENTS = [datetime(1, 1, 1, tzinfo=timezone.utc), datetime(2013, 4, 1, tzinfo=timezone.utc)]


def moment(micros: int) -> datetime:
    return datetime(1970, 1, 1, microsecond=micros, tzinfo=timezone.utc)


def spec(**fields) -> TrainingSetSpec:
    given_fields = {"name": "x", "entities": "events", "timestamp": "at", "columns": ["f"], **fields}
    return parse(TrainingSetSpec, given_fields, "Step 'training_set'")


def written(folder, *tables: pa.Table):
    store = ArtifactStore(f"file://{folder}")
    with DatasetWriter(store, "events") as writer:
        for table in tables:
            writer.write(table)
        return open_dataset(store, writer.commit()[0].ref)


events = st.lists(
    st.tuples(st.sampled_from(MOMENTS), *(values for _, values in KINDS.values())), min_size=1, max_size=30
)


@settings(max_examples=60, deadline=None)
@given(events)
def test_events_are_sorted_as_arrow_sorts_them(tmp_path_factory, rows):
    kinds = {"at": pa.timestamp("us", "UTC")} | {name: kind for name, (kind, _) in KINDS.items()}
    table = pa.table(
        {name: pa.array(column, kinds[name]) for name, column in zip(kinds, zip(*rows, strict=True), strict=True)}
    )
    names = [name for name in kinds if name not in ("e", "l", "z")]
    # Arrow cannot sort by these columns, and not by half precision.
    single = table.set_column(table.column_names.index("h"), "h", table["h"].cast(pa.float32()))
    expected = table.take(pc.sort_indices(single, [(pc.field(name), "ascending") for name in names]))
    dataset = written(tmp_path_factory.mktemp("store"), table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "BATCH_ROWS", 7)
        with read_events(spec(columns=list(KINDS)), [dataset], []) as (found, dropped):
            # The texts of NaN and -0.0 are compared, because NaN is not equal to itself.
            assert str(found.slice().to_pydict()) == str(expected.to_pydict())
            assert found.schema.types == expected.schema.types
    assert dropped == {"label_unknown": 0}


@pytest.mark.parametrize(
    ("first", "second", "are_sorted"),
    [([0, 1], [2, 3], False), ([0, 1], [1, 2], True), ([0, 2], [1, 3], True), ([1, 1], [2, 3], True)],
    ids=["ascending", "equal", "descending", "equal in a batch"],
)
def test_only_events_that_are_not_in_order_are_sorted(first, second, are_sorted, tmp_path, monkeypatch):
    tables = [
        pa.table({"at": pa.array(at, pa.timestamp("us", "UTC")), "f": [2.0, 1.0], "y": [1, None]})
        for at in (first, second)
    ]
    sort = []
    monkeypatch.setattr(module, "in_order", lambda *given: sort.append(given) or in_order(*given))
    with read_events(spec(label="y"), [written(tmp_path, *tables)], []) as (found, dropped):
        assert found.slice().to_pydict() == {"at": [moment(first[0]), moment(second[0])], "f": [2.0, 2.0], "y": [1, 1]}
    assert dropped == {"label_unknown": 2}
    assert bool(sort) == are_sorted


@pytest.mark.parametrize(
    ("values", "kind"), [(["1", "2"], pa.int64()), (["1", "20000000000000000000"], pa.float64()), ([None], pa.int64())]
)
def test_all_rows_decide_whether_decimals_are_integers(values, kind, monkeypatch):
    monkeypatch.setattr(spool, "BATCH_ROWS", 1)
    numbers = [None if value is None else Decimal(value) for value in values]
    with spool.spooled([pa.table({"d": pa.array(numbers, pa.decimal128(38, 0))})]) as rows:
        found = with_numbers(rows, ["d"])["d"]
    assert found.type == kind
    assert found.to_pylist() == numbers


def test_problems_are_counted_in_all_batches(tmp_path):
    at = pa.array([MOMENTS[1]] * 3, pa.timestamp("us", "UTC"))
    table = pa.table({"at": at, "f": [1.0, 2.0, 3.0], "y": [math.inf, 1.0, -math.inf]})
    dataset = written(tmp_path, table, table)
    with pytest.raises(TrainingError, match="infinite in 4 rows"), read_events(spec(label="y"), [dataset], []):
        pass


def label_values(values: list[str]) -> LabelValues:
    return LabelValues.of([pa.array(values)], pa.string(), None)


def test_classes_that_differ_only_by_blanks_are_refused():
    with pytest.raises(TrainingError, match="'yes' and 'yes ', which differ only by blanks"):
        require_classes(label_values(["no", "yes", "yes "]), "multiclass", "late", "the events")
    with pytest.raises(TrainingError, match=r"'caf\\xe9' and 'cafe\\u0301', which differ only by"):
        require_classes(label_values(["caf\u00e9", "tea", "cafe\u0301"]), "multiclass", "drink", "the events")
    require_classes(label_values(["a", "A"]), "binary", "late", "the events")
