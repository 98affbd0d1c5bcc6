"""The types of ingested columns hold for every batch, file and window, and text becomes a number only without a loss."""

from __future__ import annotations

import ast
import json
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SchemaError, SpecError
from airflow_mlops.data.databases.queries.alchemy import _array
from airflow_mlops.data.databases.queries.postgres_types import PostgresColumn, PostgresColumns
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.incoming import inference
from airflow_mlops.data.incoming.inference import Notation, TextColumn, untyped
from airflow_mlops.data.incoming.types import ColumnTypes
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources.formats import parquet, source_file
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run

UTC = pa.timestamp("us", "UTC")


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"))


@pytest.fixture
def ingest(context, tmp_path):
    """Ingest files that are given by their content: text by suffix, or columns of a Parquet file."""

    def ingest(*contents, suffix="csv", **options):
        files = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.{'parquet' if isinstance(content, dict) else suffix}"
            if isinstance(content, dict):
                pq.write_table(pa.table(content), path)
            else:
                path.write_text(content)
            files.append(str(path))
        result = run(parse(IngestSpec, {"name": "raw", "files": files, **options}, "Step 'ingest'"), context)
        return open_dataset(context.store, result.dataset).table()

    return ingest


def inferred(values, notation=None):
    column = TextColumn(untyped("x", notation or Notation()))
    for value in values:
        column.update(pa.array([value], pa.string()))
    return column.result(), column.read(pa.array(values, pa.string()), column.result(), "Column 'x'").to_pylist()


class TestDeclaredTypes:
    def test_hold_for_every_batch_of_a_parquet_file(self, ingest, monkeypatch):
        monkeypatch.setattr(parquet, "BATCH_ROWS", 10)
        columns = {"n": pa.array(range(25), pa.int32()), "t": ["2024-03-05"] * 25}
        found = ingest(columns, types={"n": "float64", "t": "timestamp[us, tz=UTC]"})
        assert found.schema.types == [pa.float64(), UTC]
        assert found["n"].to_pylist() == list(range(25))

    def test_hold_for_every_block_of_a_csv_file(self, ingest, monkeypatch):
        monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
        text = "n,s\n" + "".join(f"{n},{n}\n" for n in range(1000))
        found = ingest(text, types={"n": "decimal128(10, 2)", "s": "string"})
        assert found.schema.types == [pa.decimal128(10, 2), pa.string()]
        assert found["s"].to_pylist() == [str(n) for n in range(1000)]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_hold_for_every_file(self, suffix, ingest):
        contents = ("n\n1\n", "n\n2\n") if suffix == "csv" else ('{"n": 1}\n', '{"n": 2}\n')
        found = ingest(*contents, suffix=suffix, types={"n": "float64"})
        assert (found["n"].type, found["n"].to_pylist()) == (pa.float64(), [1.0, 2.0])

    def test_hold_for_files_of_other_types(self, ingest):
        found = ingest({"n": pa.array([1], pa.int8())}, {"n": ["2"]}, {"n": pa.array([None])}, types={"n": "int64"})
        assert (found["n"].type, found["n"].to_pylist()) == (pa.int64(), [1, 2, None])

    def test_are_kept_where_they_are_not_types_of_datasets(self, ingest):
        assert ingest("n\n1\n", types={"n": "int16"}).schema.types == [pa.int16()]

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "json"])
    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            ("1234567890123456", "decimal128(18, 4)"), ("123456789012345", "decimal128(20, 10)"),
            ("9" * 30, "decimal128(38, 10)"), ("1" + "0" * 39, "decimal128(38, 0)"), ("1e39", "decimal128(38, 0)"),
            ("9" * 80, "decimal128(38, 2)"), ("0.125", "decimal128(38, 2)"), ("1e300", "float32"), ("7e4", "float16"),
        ],
    )  # fmt: skip
    def test_numbers_that_the_type_cannot_hold_are_refused(self, value, kind, suffix, ingest):
        text = f"a,b\n1,x\n{value},x\n" if suffix == "csv" else f'{{"a": 1, "b": 1}}\n{{"a": {value}, "b": 1}}\n'
        text = f"[{','.join(text.splitlines())}]" if suffix == "json" else text
        with pytest.raises(SchemaError, match=r"'a' .*declared (decimal128|float|halffloat)"):
            ingest(text, suffix=suffix, types={"a": kind})

    def test_lists_of_decimals_are_exact_or_refused(self, ingest):
        types = {"a": "list<item: decimal128(18, 4)>"}
        found = ingest('{"a": [1.5, null]}\n{"a": null}\n', suffix="jsonl", types=types)["a"].to_pylist()
        assert found == [[Decimal("1.5000"), None], None]
        for value in ("1234567890123456", "9" * 90, "0.12345"):
            with pytest.raises(SchemaError, match=f"'a' .*'{value[:80]}' in line 2"):
                ingest(f'{{"a": [1]}}\n{{"a": [2, {value}]}}\n', suffix="jsonl", types=types)

    @pytest.mark.parametrize("suffix", ["csv", "jsonl"])
    def test_decimals_of_text_files_are_exact(self, suffix, ingest):
        texts = ["12345678901234567890123456789012345678", "-1", "2e3", "007" if suffix == "csv" else "7", "5.0"]
        lines = ["a,b", *(f" {text},x" for text in texts), ",x"]
        if suffix == "jsonl":
            lines = [f'{{"a": {text}}}' for text in [*texts, "null"]]
        found = ingest("\n".join(lines), suffix=suffix, types={"a": "decimal128(38, 0)"})["a"]
        assert found.to_pylist() == [*(Decimal(text) for text in texts), None]
        assert found.type == pa.decimal128(38, 0)

    @pytest.mark.parametrize(
        "kind",
        ["decimal128(10, -2)", "decimal128(3, 4)", "list<item: decimal128(10, -2)>", "struct<x: decimal128(3, 4)>"],
    )
    def test_decimals_with_an_impossible_scale_are_refused(self, kind, ingest):
        with pytest.raises(SpecError, match=r"types=\{'n': .*datasets cannot store"):
            ingest("n\n100\n", types={"n": kind})


class TestStructs:
    @pytest.fixture
    def day(self, ingest):
        """Ingest values of the column ``a`` of one day from a Parquet file."""
        return lambda day, values, **options: ingest({"a": values}, window=f"2024-03-0{day}", **options)[
            "a"
        ].to_pylist()

    def test_may_have_different_fields_in_different_windows(self, day):
        assert day(1, [{"x": 1}]) == [{"x": 1}]
        assert day(2, [{"x": 1, "y": [{"z": 2}]}]) == [{"x": 1, "y": [{"z": 2}]}]
        assert day(3, [{"y": [{"u": "v"}]}]) == [{"y": [{"u": "v"}]}]

    def test_of_other_types_are_accepted_as_the_error_says(self, day):
        day(1, [{"x": 1}])
        with pytest.raises(SchemaError) as raised:
            day(2, [{"x": "one"}])
        advice = re.search(r"types=({.*?}) and ingest the other windows again", str(raised.value))
        types = ast.literal_eval(advice[1])
        assert day(2, [{"x": "one"}], types=types) == [{"x": "one"}]
        assert day(1, [{"x": 1}], types=types) == [{"x": "1"}]

    def test_with_names_that_a_type_cannot_express_are_converted_in_the_source(self, day):
        day(1, [{"k: v": 1}])
        with pytest.raises(SchemaError, match=r"Convert the column in the source\.$"):
            day(2, [{"k: v": "one"}])
        assert day(3, [None]) == [None]

    def test_lose_no_field_to_a_declared_type(self, ingest):
        types = {"a": "struct<x: int64>"}
        assert ingest({"a": pa.array([{"x": 1, "y": None}])}, types=types)["a"].to_pylist() == [{"x": 1}]
        with pytest.raises(
            SchemaError, match=r"'a' is declared struct<x: int64> but contains .*: the type has no field 'y'"
        ):
            ingest({"a": [{"x": 1, "y": 2}]}, types=types)


class TestLongNumbersOfDatabases:
    @pytest.mark.parametrize("texts", [["1" + "0" * 39], [f"0.{'3' * 20}", "12345678901234567890123"]])
    def test_of_postgres_are_refused(self, texts):
        columns = PostgresColumns([PostgresColumn("a", "numeric")], {})
        with pytest.raises(SchemaError, match=r"'a' .*38 digits .*types=\{'a': 'float64'\}"):
            columns.convert(pa.record_batch({"a": texts}))

    @pytest.mark.parametrize("values", [["1e39", None], ["1e60", "1e-30"]])
    def test_of_other_databases_are_refused_or_become_text(self, values):
        numbers = [None if value is None else Decimal(value) for value in values]
        with pytest.raises(SchemaError, match=r"'a' .*38 digits .*types=\{'a': 'string'\}"):
            _array("a", numbers, ColumnTypes(), None)
        found = _array("a", numbers, ColumnTypes({"a": pa.string()}), None).to_pylist()
        assert [None if text is None else Decimal(text) for text in found] == numbers
        assert found[0].isdigit()

    @pytest.mark.parametrize("digits", [45, 90])
    def test_that_are_whole_are_refused_or_become_text(self, digits):
        number = int("123456789" * (digits // 9))
        with pytest.raises(SchemaError, match=r"'a' .*38 digits .*types=\{'a': 'string'\}"):
            _array("a", [number, None], ColumnTypes(), None)
        found = _array("a", [number, None], ColumnTypes({"a": pa.string()}), None)
        assert found.to_pylist() == [str(number), None]


class TestSeveralFiles:
    def test_the_same_column_may_have_types_of_one_kind(self, ingest):
        one = {
            "s": ["a"], "c": pa.array(["a"]).dictionary_encode(), "n": pa.array([1], pa.int32()),
            "t": pa.array([1], pa.timestamp("us")), "d": [Decimal("1.5")], "x": pa.array([None]), "l": [[1]],
        }  # fmt: skip
        other = {
            "s": pa.array(["b"], pa.large_string()), "c": ["b"], "n": [2], "t": pa.array([2000], pa.timestamp("ns", "UTC")),
            "d": [Decimal("10.25")], "x": ["x"], "l": pa.array([[]], pa.list_(pa.null())),
        }  # fmt: skip
        found = ingest(one, other)
        assert found.schema.types[:6] == [pa.string(), pa.string(), pa.int64(), UTC, pa.decimal128(4, 2), pa.string()]
        assert found.drop(["t", "l"]).to_pylist() == [
            {"s": "a", "c": "a", "n": 1, "d": Decimal("1.50"), "x": None},
            {"s": "b", "c": "b", "n": 2, "d": Decimal("10.25"), "x": "x"},
        ]
        assert found["t"].cast(pa.int64()).to_pylist() == [1, 2]
        assert found["l"].to_pylist() == [[1], []]
        assert ingest(other, one, name="reversed").schema.types[:6] == found.schema.types[:6]

    def test_a_column_may_be_null_in_a_file(self, ingest):
        found = ingest({"s": ["a"], "u": pa.array([b"0" * 16], pa.uuid())}, {"s": [None], "u": pa.array([None])})
        assert found["s"].to_pylist() == ["a", None]
        assert found["u"].to_pylist() == ["30303030-3030-3030-3030-303030303030", None]

    def test_a_column_of_different_kinds_is_named(self, ingest):
        with pytest.raises(SchemaError, match=r"'s' is string .*int64.*types=\{'s': "):
            ingest({"s": ["a"]}, {"s": [1]})

    def test_types_are_inferred_from_all_csv_files(self, ingest):
        found = ingest("n,s\n1,1\n", "n,s\n1.5,\n", "n,s\n,a\n")
        assert found.to_pydict() == {"n": [1.0, 1.5, None], "s": ["1", None, "a"]}

    def test_integers_and_doubles_are_doubles_if_every_integer_is_exact(self, ingest):
        for contents in ([{"n": [1.0, None]}, {"n": [1, 2]}], [{"n": [1, 2]}, {"n": [1.0, None]}]):
            found = ingest(*contents)["n"]
            assert found.type == pa.float64()
            assert sorted(found.to_pylist(), key=str) == [1.0, 1.0, 2.0, None]
        with pytest.raises(SchemaError, match=r"'n' .*9007199254740993 .*types=\{'n': "):
            ingest({"n": [1.0, None]}, {"n": [2**53 + 1]})

    def test_json_numbers_may_get_fractions(self, ingest):
        found = ingest('{"n": 1, "s": null}\n', '{"n": 1.5, "s": "x"}\n', suffix="jsonl")
        assert found.to_pydict() == {"n": [1.0, 1.5], "s": [None, "x"]}


class TestLaterWindows:
    def test_a_column_that_is_null_has_the_type_of_the_other_window(self, ingest):
        ingest({"s": ["a"], "t": pa.array([1], UTC)}, window="2024-01")
        found = ingest({"s": pa.array([None]), "t": pa.array([None])}, window="2024-02")
        assert found.schema.types == [pa.string(), UTC]

    def test_types_of_one_kind_are_the_same_column(self, ingest):
        ingest({"s": ["a"], "n": [1], "d": [Decimal("1.50")]}, window="2024-01")
        other = {"s": pa.array(["a"]).dictionary_encode(), "n": pa.array([2], pa.int16()), "d": [Decimal("100.125")]}
        assert ingest(other, window="2024-02").to_pylist() == [{"s": "a", "n": 2, "d": Decimal("100.125")}]

    @pytest.mark.parametrize(
        ("before", "now", "kind", "value"),
        [
            ("1.5", "12.50", pa.float64(), 12.5),
            ("1.5", "2", pa.float64(), 2.0),
            ("a", "007", pa.string(), "007"),
            ("1.50", "2", pa.decimal128(38, 2), Decimal("2.00")),
            ("1.50", "2.125", pa.float64(), 2.125),
            ("", "007", pa.string(), "007"),
        ],
    )
    def test_text_is_read_as_in_the_other_window_if_nothing_is_lost(self, before, now, kind, value, ingest):
        ingest(f"x,n\n{before},1\n", window="2024-01")
        found = ingest(f"x,n\n{now},1\n", window="2024-02")
        assert (found["x"].type, found["x"].to_pylist()) == (kind, [value])

    @pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.int32()])
    def test_whole_numbers_that_pandas_writes_as_doubles_stay_integers(self, kind, ingest, monkeypatch):
        monkeypatch.setattr(parquet, "BATCH_ROWS", 1)
        ingest({"n": pa.array([1, 2], kind)}, window="2024-01")
        found = ingest({"n": [1.0, None, float(2**53 - 1)]}, window="2024-02")["n"]
        assert found.type == (pa.uint64() if kind == pa.uint64() else pa.int64())
        assert found.to_pylist() == [1, None, 2**53 - 1]
        found = ingest({"n": [3.0]}, {"n": [None]}, {"n": pa.array([4], kind)}, window="2024-03")["n"]
        assert (found.type.bit_width, found.to_pylist()) == (64, [3, None, 4])

    @pytest.mark.parametrize(
        ("value", "fact"),
        [
            (1.5, r"1\.5 in row 2 of .*types=\{'n': 'float64'\}"), (float("nan"), "nan in row 2"),
            (float("inf"), "inf in row 2"), (2.0**53, "row 2 of .*, which may be a rounded integer"), (-1e300, "row 2"),
        ],
    )  # fmt: skip
    def test_other_doubles_in_a_column_of_integers_are_named(self, value, fact, ingest):
        ingest({"n": [1]}, window="2024-01")
        with pytest.raises(SchemaError, match=f"'n' is int64 in the window 2024-01 but now contains .*{fact}"):
            ingest({"n": pa.array([1.0, value])}, window="2024-02")
        found = ingest({"n": pa.array([1.0, value])}, window="2024-02", types={"n": "float64"})["n"].to_pylist()
        assert repr(found[1]) == repr(value)

    def test_integers_in_a_column_of_doubles_become_doubles_if_they_are_exact(self, ingest):
        ingest({"n": [1.5, None]}, window="2024-01")
        found = ingest({"n": [1, 2**53]}, window="2024-02")["n"]
        assert (found.type, found.to_pylist()) == (pa.float64(), [1.0, 2.0**53])
        with pytest.raises(
            SchemaError, match="is double in .* but now contains 9007199254740993 in row 2 .* represent"
        ):
            ingest({"n": [1, 2**53 + 1]}, window="2024-02")

    @pytest.mark.parametrize(
        ("suffix", "text"), [("csv", "n,s\n1.0,a\n,b\n2,c\n"), ("jsonl", '{"n": 1.0}\n{"n": null}\n')]
    )
    def test_the_same_holds_for_text_files(self, suffix, text, ingest):
        ingest({"n": [7], "s": ["x"]} if suffix == "csv" else {"n": [7]}, window="2024-01")
        found = ingest(text, suffix=suffix, window="2024-02")["n"]
        assert (found.type, found.to_pylist()) == (pa.int64(), [1, None, 2] if suffix == "csv" else [1, None])
        text = text.replace("1.0", "1.5")
        with pytest.raises(SchemaError, match=r"'n' is int64 in the window 2024-01 .*1\.5"):
            ingest(text, suffix=suffix, window="2024-02")

    def test_an_error_names_the_type_of_the_window_or_that_of_the_first_rows(self, ingest):
        ingest({"n": [1], "t": pa.array([1], UTC)}, window="2024-01")
        text = {"n": ["x"], "t": pa.array([1], UTC)}
        with pytest.raises(SchemaError, match="'n' is string in the first rows, but then contains int64 values"):
            ingest(text, {"n": [1], "t": pa.array([1], UTC)}, window="2024-02")
        with pytest.raises(SchemaError, match="'n' is int64 in the window 2024-01 but now contains string values"):
            ingest({"n": [1], "t": pa.array([1], UTC)}, text, window="2024-02")
        with pytest.raises(
            SchemaError, match="'t' is a string in the first rows, but then contains a number in line 2"
        ):
            ingest('{"n": 1, "t": "2024-01-01"}\n{"n": 1, "t": 5}\n', suffix="jsonl", window="2024-02")

    @pytest.mark.parametrize(("before", "now"), [("7", "007"), ("7", "1.5"), ("1.5", "x"), ("1.5", str(10**19 + 1))])
    def test_text_that_would_lose_something_is_named(self, before, now, ingest):
        ingest(f"x,n\n{before},1\n", window="2024-01")
        with pytest.raises(SchemaError, match=f"'x' is .* in the window 2024-01 but now contains '{now}'"):
            ingest(f"x,n\n{now},1\n", window="2024-02")


class TestIds:
    @pytest.mark.parametrize(
        "values",
        [
            ["12345678901234567890", "12345678901234567891"], ["0x1F", "12"], ["1E5", "2"], ["007", "12"], ["1.10", "1.9"],
            ["+4917", "12"], ["1_000"], ["9007199254740993", "1.5"], ["1.0", "2"], [".5", "0.5"], ["True", "true"],
            ["2024-03-05"], ["1e400"], ["NA", "1"], ["1e99999999999999999999", "0.5"],
        ],
    )  # fmt: skip
    def test_text_that_no_number_can_restore_stays_text(self, values):
        assert inferred(values) == (pa.string(), values)

    @pytest.mark.parametrize(
        ("values", "kind", "found"),
        [
            (["7", "-12", " 3"], pa.int64(), [7, -12, 3]),
            (["9007199254740993", None], pa.int64(), [9007199254740993, None]),
            (["1.5", "2", "-0.25"], pa.float64(), [1.5, 2.0, -0.25]),
            (["1.0", "0.0"], pa.float64(), [1.0, 0.0]),
            (["1e-05", "1e+20", "2.5E-7"], pa.float64(), [1e-05, 1e20, 2.5e-07]),
            (["1e3", "1012", "1011.9"], pa.float64(), [1000.0, 1012.0, 1011.9]),
            (["0.30000000000000004"], pa.float64(), [0.30000000000000004]),
            (["inf", "1.5"], pa.float64(), [float("inf"), 1.5]),
            (["1.10", "12.50"], pa.decimal128(38, 2), [Decimal("1.10"), Decimal("12.50")]),
            (["true", "false", None], pa.bool_(), [True, False, None]),
            (["TRUE"], pa.bool_(), [True]),
            ([None], pa.null(), [None]),
        ],
    )
    def test_text_that_a_number_can_restore_becomes_a_number(self, values, kind, found):
        assert inferred(values) == (kind, found)

    @pytest.mark.parametrize(
        ("notation", "values", "found"),
        [
            (Notation(","), ["1,5", "2"], [1.5, 2.0]),
            (Notation(",", "."), ["1.234,50", "2,25"], [Decimal("1234.50"), Decimal("2.25")]),
            (Notation(".", ","), ["1,234", "12"], [1234, 12]),
            (Notation(","), ["1.5"], ["1.5"]),
            (Notation(".", ","), ["1,23"], ["1,23"]),
        ],
    )
    def test_numbers_may_have_another_notation(self, notation, values, found):
        assert inferred(values, notation)[1] == found

    numbers = st.one_of(
        st.from_regex(r"-?[0-9]{1,20}", fullmatch=True),
        st.from_regex(r"-?[0-9]{0,4}\.[0-9]{0,5}", fullmatch=True),
        st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2})?[eE][+-]?[0-9]{1,3}", fullmatch=True),
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.sampled_from(["0x1F", "", "true", "1,5", "٣", "1 000"]),
    )

    @given(st.lists(numbers, min_size=1, max_size=5))
    def test_different_text_never_becomes_the_same_number(self, values):
        kind, found = inferred(values)
        if kind == pa.string():
            assert found == values
        elif kind == pa.bool_():
            assert {"true": True}[values[0]] == found[0]
        elif pa.types.is_floating(kind):
            digits = {text: _digits(text) for text in values}
            assert len(set(digits.values())) == len({value if value else repr(value) for value in found})
            assert [float(text) for text in values] == found
        else:
            assert [str(value) for value in found] == values

    def test_a_column_that_is_kept_as_text_is_reported(self, ingest, caplog):
        caplog.set_level("INFO")
        assert ingest("price,code\n12.5,a\n7.50,1\n")["price"].to_pylist() == ["12.5", "7.50"]
        assert "'price' contains numbers, but is kept as text, because '7.50'" in caplog.text
        assert "'code'" not in caplog.text
        ingest("price;code\n12,5;a\n7,50;1\n", csv={"sep": ";", "decimal": ","})
        assert "because '7,50'" in caplog.text

    def test_whole_json_numbers_are_not_rounded(self, ingest):
        text = '{"id": 12345678901234567890}\n{"id": 1}\n'
        with pytest.raises(SchemaError, match=r"'id' .*12345678901234567890.*decimal128\(38, 0\)"):
            ingest(text, suffix="jsonl")
        found = ingest(text, suffix="jsonl", types={"id": "decimal128(38, 0)"})
        assert found["id"].to_pylist() == [12345678901234567890, 1]
        assert ingest('{"x": 1e300}\n{"x": 9007199254740992}\n', suffix="jsonl", name="b")["x"][0].as_py() == 1e300


def _digits(text):
    """The number that a text means, with its sign and without its exponent."""
    sign, digits, exponent = Decimal(text).as_tuple()
    return Decimal((sign, digits, exponent)).normalize() if any(digits) else f"{'-' if sign else ''}0.0"


def test_files_written_by_pandas_and_arrow_are_read(ingest):
    columns = {
        "category": pa.array(["a", None, "a"]).dictionary_encode(),
        "half": pa.array(np.array([0.5, 1.5, 2.5], np.float16)),
        "key": pa.array([2**64 - 1, 1, None], pa.uint64()),
        "embedding": pa.array([[1.5, 2.5], [0.25, 0.75], [0.5, 0.5]], pa.list_(pa.float32(), 2)),
    }
    assert ingest(columns).to_pydict() == {
        "category": ["a", None, "a"],
        "half": [0.5, 1.5, 2.5],
        "key": [2**64 - 1, 1, None],
        "embedding": [[1.5, 2.5], [0.25, 0.75], [0.5, 0.5]],
    }


def test_empty_json_objects_are_null(ingest):
    lines = [{"a": {}, "b": {"c": {}, "d": 1}}, {"a": {}, "b": {"c": {}, "d": 2}}]
    found = ingest("".join(json.dumps(line) + "\n" for line in lines), suffix="jsonl")
    assert found.to_pylist() == [{"a": None, "b": {"c": None, "d": 1}}, {"a": None, "b": {"c": None, "d": 2}}]


def test_plain_decimals_are_inferred_like_other_numbers(monkeypatch):
    random = np.random.default_rng(0)
    texts = [
        "0.0",
        "-0.0",
        "1.0",
        "2.5",
        "0.5",
        "-0.5",
        ".5",
        "1.50",
        "12",
        "007.5",
        "1.5e3",
        "123456789012345.5",
        None,
    ]
    are_plain = inference._are_plain
    for _ in range(300):
        columns = [inference.TextColumn(inference.untyped("a")) for _ in range(2)]
        for _ in range(3):
            some = texts[: random.integers(1, len(texts) + 1)]
            values = pa.array(random.choice(np.array(some, dtype=object), random.integers(1, 6)).tolist(), pa.string())
            for column, rule in zip(columns, (are_plain, lambda values: False), strict=True):
                monkeypatch.setattr(inference, "_are_plain", rule)
                column.update(values)
            found, expected = map(vars, columns)
            assert found == expected, values
