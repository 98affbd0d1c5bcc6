"""JSON files: lines, an array, records under a key; each value that is not a record is an error with its place."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import MalformedFileError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetSelection
from airflow_mlops.data.selection import select
from airflow_mlops.data.types import concatenated
from airflow_mlops.stages.ingest.sources.formats import source_file

ROWS = [{"a": 1, "s": "x\ny"}, {"a": 2, "s": "}{"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize(
    ("document", "path"),
    [
        (ROWS, None),
        ({"count": 2, "data": ROWS, "next": None}, "data"),
        ({"x": [1, {"data": 3}], "page": {"n": [], "items": ROWS}}, ["page", "items"]),
    ],
)
def test_records_of_an_array_are_rows(document, path, indent, block, ingestion, written, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    file = written("a.json", json.dumps(document, indent=indent))
    assert ingestion.rows(file, record_path=path) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_sequence_of_objects_is_rows(indent, encoding, ingestion, written):
    text = "\n".join(json.dumps(row, indent=indent) for row in ROWS)
    assert ingestion.rows(written("a.json", text.encode(encoding))) == ROWS


def test_the_format_can_be_named(ingestion, written):
    assert ingestion.rows(written("export", json.dumps(ROWS)), format="json") == ROWS


def test_the_error_about_an_object_with_an_array_suggests_the_possible_readings(ingestion, written):
    path = written("a.json", json.dumps({"page": {"items": ROWS}}))
    with pytest.raises(SchemaError, match=r"record_path=\['page', 'items'\].*record_path=\[\]"):
        ingestion.run(path)
    assert ingestion.rows(path, record_path=[]) == [{"page": {"items": ROWS}}]
    assert ingestion.rows(written("b.json", '{"a": {"b": [1]}}'), name="b") == [{"a": {"b": [1]}}]


def lines(*values):
    return "".join(f'{{"a": {value}, "b": 0}}\n' for value in values)


@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_column_declared_as_text_keeps_the_json_text_of_each_value(
    name, late, block, ingestion, written, monkeypatch
):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    values = {
        "1": "1", '"a"': "a", "true": "true", '{"k": 1.50, "a": "x"}': '{"k": 1.50, "a": "x"}', "[1, null]": "[1, null]",
        "null": None, "12345678901234567890": "12345678901234567890", "1e400": "1e400", '"1"': "1", '"\\u00e9"': "\u00e9",
        "-0.0": "-0.0",
    }  # fmt: skip
    texts = (['"s"', '"t"'] if late else []) + list(values)
    expected = (["s", "t"] if late else []) + list(values.values())
    content = lines(*texts) if name == "a.jsonl" else f"[{','.join(lines(*texts).splitlines())}]"
    found = ingestion.rows(written(name, content), types={"a": "string"})
    assert [row["a"] for row in found] == expected
    assert [row["b"] for row in found] == [0] * len(expected)


def test_the_error_about_a_column_of_several_kinds_asks_for_a_declared_type(ingestion, written):
    path = written("a.jsonl", lines("1", '"x"'))
    with pytest.raises(SchemaError, match=r"'a' is a number in .* a string in line 2 of .*types=\{'a': 'string'\}"):
        ingestion.run(path)
    assert [row["a"] for row in ingestion.rows(path, types={"a": "string"})] == ["1", "x"]
    path = written("b.jsonl", lines('{"x": 1}', '{"x": [1]}'))
    with pytest.raises(
        SchemaError, match=r"'a' of .* a number and, in line 2, an array at a/x.*types=\{'a': 'string'\}"
    ):
        ingestion.run(path, name="b")
    assert ingestion.rows(path, name="b", types={"a": "string"})[1]["a"] == '{"x": [1]}'


@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("float64", ['"12.50"', "12.5", '"1e3"', "null", '"-inf"'], [12.5, 12.5, 1000.0, None, -math.inf]),
        ("float64", ["12.5", '"12.50"'], [12.5, 12.5]),
        ("float32", ['"0.5"'], [0.5]),
        ("float64", ['" 12.5\u00a0"', '"7 "'], [12.5, 7.0]),
        ("int64", ['"12"', "3", '"4.0"', "5.0"], [12, 3, 4, 5]),
        ("decimal128(10, 2)", ['"12.50"', "3.25", "7"], [Decimal("12.50"), Decimal("3.25"), Decimal("7.00")]),
        ("bool", ["1", "true", '"false"', "0"], [True, True, False, False]),
        ("date32", ['"2024-03-05"'], [date(2024, 3, 5)]),
    ],
)
def test_text_in_a_column_of_numbers_is_converted(kind, values, expected, block, ingestion, written, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    found = ingestion.rows(written("a.jsonl", lines(*values)), types={"a": kind})
    assert [row["a"] for row in found] == expected


@pytest.mark.parametrize("kind", ["list<item: float64>", "list<item: decimal128(5, 2)>"])
def test_lists_are_read_beside_columns_that_are_read_as_text(kind, ingestion, written):
    content = '{"a": "1.5", "l": [1.25]}\n{"a": 2, "l": null}\n'
    found = ingestion.rows(written("a.jsonl", content), types={"a": "float64", "l": kind})
    assert [(row["a"], row["l"]) for row in found] == [(1.5, [1.25]), (2.0, None)]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("float64", ['"x"', "1"], "declared double but contains 'x' in line 1 "),
        ("float64", ['"1 "', '"x"'], "declared double but contains 'x' in line 2 "),
        ("float64", ["1", '"1,5"'], "declared double but contains '1,5' in line 2 "),
        ("float64", ["true", "1"], "declared double but contains 'true' in line 1 "),
        ("float64", ["1", '{"k": 1}'], "declared double but contains '{\"k\": 1}' in line 2 "),
        ("float64", ["1", "1e400"], "declared double but contains '1e400' in line 2 "),
        ("float64", ["1", '"1e400"'], "declared double but contains '1e400' in line 2 "),
        ("float32", ["1", '"1e39"'], "declared float but contains '1e39' in line 2 "),
        ("int64", ["1", "1.5"], "declared int64 but contains '1.5' in line 2 "),
        ("int64", ["1", '"0x10"'], "declared int64 but contains '0x10' in line 2 "),
        ("int64", ["99999999999999999999"], "declared int64 but contains '99999999999999999999' in line 1 "),
        ("bool", ["true", "2"], "declared bool but contains '2' in line 2 "),
        ("bool", ["2", "true"], "declared bool but contains '2' in line 1 "),
        ("decimal128(10, 2)", ['"1.125"'], "declared decimal128(10, 2) but contains '1.125' in line 1 "),
        ("list<item: int64>", ["1", "[1]"], "declared list<item: int64> but contains a number in line 1 "),
        ("list<item: int64>", ["[1]", "1"], "declared list<item: int64> but contains a number in line 2 "),
        ("list<item: int64>", ["[1]", '["x"]'], "declared list<item: int64> but contains a string at a/[] in line 2 "),
        ("list<item: int64>", ["[1]", "[1.5]"], "declared list<item: int64> but contains '1.5' in line 2 "),
        ("date32", ["1", '"2024-03-05"'], "declared date32[day], but contains '1' in row 1"),
    ],
)
def test_the_error_names_the_declared_type_and_the_value_that_does_not_fit(kind, values, message, ingestion, written):
    with pytest.raises(SchemaError) as raised:
        ingestion.run(written("a.jsonl", lines(*values)), types={"a": kind})
    assert f"is {message}" in str(raised.value)
    assert "a.jsonl" in str(raised.value)


@pytest.mark.parametrize(
    "text", ["[12345678901234567890]", '{"k": [12345678901234567890]}', "1" + "0" * 30 + "1", "1" + "0" * 400]
)
def test_whole_numbers_in_lists_and_structs_are_not_rounded_either(text, ingestion, written):
    with pytest.raises(SchemaError, match=r"'a' of .* in line 1, which float64 cannot represent.*types=\{'a': "):
        ingestion.run(written("a.jsonl", lines(text)))
    assert ingestion.rows(written("b.jsonl", lines(text)), name="b", types={"a": "string"})[0]["a"] == text


@pytest.mark.parametrize("kind", ["decimal128(5, 2)", "list<item: decimal128(5, 2)>"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_decimal_that_does_not_fit_is_a_wrong_type(kind, name, ingestion, written):
    value = "[1234.567]" if kind.startswith("list") else "1234.567"
    path = written(name, f'{{"x": 1, "a": null}}\n{{"x": 2, "a": {value}}}\n')
    with pytest.raises(SchemaError, match=r"'a' is declared .*decimal128\(5, 2\).* but contains .*1234\.567.*`types`"):
        ingestion.run(path, types={"a": kind})


@pytest.mark.parametrize(
    "document",
    [
        {"a": {"0": 1, "1": 2}, "s": {"0": "x", "1": "y"}},
        {"a": {"0": 1, "1": 2}},
        {"0": {"a": 1, "s": "x"}, "1": {"a": 2, "s": "y"}},
    ],
)
def test_an_object_of_columns_is_not_read_as_a_row(document, ingestion, written):
    path = written("a.json", json.dumps(document))
    with pytest.raises(SchemaError, match=r"a\.json .*orient='records'.*record_path=\[\]"):
        ingestion.run(path)
    assert ingestion.rows(path, record_path=[]) == [document]
    assert ingestion.rows(written("b.json", '{"a": {"x": 1}, "b": {"y": 2}}'), name="b")


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "facts"),
    [
        ("a.json", "[1, 2]", {}, SchemaError, ["Element 1"]),
        ("a.json", '[{"a": 1}, null]', {}, SchemaError, ["Element 2"]),
        ("a.json", '[{"a": 1},]', {}, MalformedFileError, ["line 1"]),
        ("a.json", '[{"a": 1},\n{"a": 2}', {}, MalformedFileError, ["line 2"]),
        ("a.json", '[{"a": 1}] []', {}, MalformedFileError, ["after the end"]),
        ("a.json", '[{"a": "x', {}, MalformedFileError, ["line 1"]),
        ("a.json", "null", {}, MalformedFileError, ["objects"]),
        ("a.json", '{"a": 1} null', {}, MalformedFileError, ["objects"]),
        ("a.json", '{"r": [{"a": 1}], "r": []}', {"record_path": "r"}, MalformedFileError, ["'r'"]),
        ("a.json", '{"r": {"a": 1}}', {"record_path": "r"}, MalformedFileError, ["'['"]),
        ("a.json", '{"q": 1}', {"record_path": "r"}, SpecError, ["'r'", "record_path"]),
        ("a.json", '{"r": [{"a": 1}], "q": }', {"record_path": "r"}, MalformedFileError, ["line 1"]),
        ("a.json", '[{"a":' * 100_000, {}, MalformedFileError, ["a.json"]),
        ("a.json", '[{"a": "\\ud800"}]', {}, MalformedFileError, ["record 1"]),
        ("a.jsonl", 'null\n{"a": 1}\n', {}, MalformedFileError, ["line 1"]),
        ("a.jsonl", '{"a": 1}\nnull\n', {}, MalformedFileError, ["line 2"]),
        ("a.jsonl", '{"a": 1} null\n', {}, MalformedFileError, ["line 1"]),
        ("a.jsonl", "[]\n", {}, MalformedFileError, ["line 1"]),
        ("a.jsonl", '\n{"a": 1}\n\n{"a": }\n', {}, MalformedFileError, ["line 4"]),
        ("a.jsonl", '{"a": 1, "a": 2}\n', {}, MalformedFileError, ["twice"]),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', {}, MalformedFileError, ["line 2", "UTF-8"]),
        ("a.jsonl", '{"a":' * 50_000 + "1" + "}" * 50_000, {}, MalformedFileError, ["line 1", "deep"]),
        ("a.jsonl", '{"a":' + "[" * 50_000 + "]" * 50_000 + "}", {}, MalformedFileError, ["line 1", "deep"]),
        ("a.jsonl", "{}\n{}\n", {}, SchemaError, ["field"]),
    ],
)
def test_a_value_that_is_not_a_record_is_a_final_error_with_its_place(
    name, content, options, error, facts, ingestion, written
):
    with pytest.raises(error) as raised:
        ingestion.run(written(name, content), **options)
    assert not raised.value.retryable
    assert all(fact in str(raised.value) for fact in [name, *facts]), raised.value


def test_a_record_is_limited_in_size(ingestion, written, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(source_file, "MAX_RECORD_BYTES", 10_000)
    record = json.dumps({"a": "x" * 100_000})
    for name, content in (("a.json", f"[{record}]"), ("a.jsonl", record)):
        with pytest.raises(MalformedFileError, match="MB"):
            ingestion.run(written(name, content))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=_VALUES, texts=st.lists(st.text(max_size=5), min_size=1, max_size=4), after=_VALUES, block=st.integers(1, 64)
)
def test_the_records_are_found_between_any_other_values(before, texts, after, block, ingestion, written, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    records = [{"n": number, "t": text} for number, text in enumerate(texts)]
    file = written("a.json", json.dumps({"before": before, "here": records, "after": after}))
    assert ingestion.rows(file, record_path="here") == records


@pytest.mark.parametrize("second", ["{", "null", ' {"a": 12345678901234567890}', "\t\r{}"])
def test_a_line_with_a_second_record_is_refused(second, ingestion, written):
    # Arrow would read two rows. The check for rounded numbers does not notice this.
    content = '{"a": 1.5, "s": "}{"}\n{"a": 1.5, "s": "} null"}' + second + "\n"
    with pytest.raises(MalformedFileError, match="line 2 has more than one value"):
        ingestion.run(written("a.jsonl", content))


def test_large_numbers_beside_what_only_arrow_reads_are_not_rounded(ingestion, written):
    assert ingestion.rows(written("a.jsonl", '{"a": Infinity, "b": 1.5}\n')) == [{"a": float("inf"), "b": 1.5}]
    with pytest.raises(MalformedFileError, match="line 2 could not be read: .* in column 7"):
        ingestion.run(written("b.jsonl", '{"a": 1.5, "b": 1.5}\n{"a": Inf, "b": 12345678901234567890}\n'))


DAYS = ["2024-03-01", "2024-03-02", "2024-03-03"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (['{"x": 1}', '{"x": 1, "y": "b"}', '{"z": [0.5]}'], [(1, None, None), (1, "b", None), (None, None, [0.5])]),
        (['{"x": 1, "y": "b"}', '{"x": 2}', "{}"], [(1, "b", None), (2, None, None), (None, None, None)]),
        (['{"x": 1}', "null", '{"y": "b"}'], [(1, None, None), (None, None, None), (None, "b", None)]),
        (['{"x": null}', '{"x": 1}', '{"x": null}'], [(None, None, None), (1, None, None), (None, None, None)]),
    ],
)
@pytest.mark.parametrize("is_list", [False, True])
def test_objects_may_have_different_fields_in_different_windows(values, expected, is_list, ingestion, written):
    for day, value in zip(DAYS, values, strict=True):
        value = f"[{value}]" if is_list and value != "null" else value
        ingestion.run(written("a.jsonl", lines(value)), window=day)
    datasets = select(ingestion.context.store, DatasetSelection(name="raw", window="2024-03-01..2024-03-03"))
    found = concatenated([dataset.table() for dataset in datasets], "The windows", "")["a"].to_pylist()
    rows = [(row or [{}])[0] if is_list else row or {} for row in found]
    assert [tuple(row.get(name) for name in "xyz") for row in rows] == expected


@pytest.mark.parametrize("later", ['{"x": "one"}', "[1]", '"text"'])
def test_the_remedy_for_objects_of_other_types_works(later, ingestion, written):
    files = [written("a.jsonl", lines('{"x": 1}')), written("b.jsonl", lines(later))]
    ingestion.run(files[0], window=DAYS[0])
    with pytest.raises(SchemaError) as raised:
        ingestion.run(files[1], window=DAYS[1])
    assert "for example types={'a': 'string'} for the JSON text of each value" in str(raised.value)
    assert "ingest the other windows again" in str(raised.value)
    types = {"a": "string"}
    text = json.loads(later) if later.startswith('"') else later
    assert ingestion.rows(files[1], window=DAYS[1], types=types)[0]["a"] == text
    assert ingestion.rows(files[0], window=DAYS[0], types=types)[0]["a"] == '{"x": 1}'
    # Another column of this kind is not read, so it does not matter.
    ingestion.run(files[0], window=DAYS[0], name="b", columns=["b"])
    ingestion.run(files[1], window=DAYS[1], name="b", columns=["b"])


@pytest.mark.parametrize("columns", [None, ["a"]])
@pytest.mark.parametrize(
    ("values", "field", "kind"),
    [
        (['{"x": 1}', '{"x": 1, "y": 2}'], "y", "struct<x: int64, y: int64>"),
        (['{"x": {"p": 1}}', '{"x": {"q": 2}}'], "x/q", "struct<x: struct<p: int64, q: int64>>"),
        (['[{"x": 1}]', '[{"x": 1}, {"y": 2}]'], "[]/y", "list<item: struct<x: int64, y: int64>>"),
    ],
)
def test_a_field_that_only_later_objects_have_is_declared(
    values, field, kind, columns, ingestion, written, monkeypatch
):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 16)
    path = written("a.jsonl", lines(*values))
    with pytest.raises(SchemaError, match=rf"but then contains the field '{re.escape(field)}' in line 2 of .*types="):
        ingestion.run(path, columns=columns)
    found = ingestion.rows(path, columns=columns, types={"a": kind})
    assert json.dumps(found[1]["a"]).replace("null", "").count("2") == 1


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("struct<x: date32>", '{"x": "20240305"}', {"x": date(2024, 3, 5)}),
        ("struct<x: timestamp[s]>", '{"x": "2024-03-05T01:00:00+01:00"}', {"x": datetime(2024, 3, 5)}),
        ("list<item: timestamp[s]>", '["20240305T01+01"]', [datetime(2024, 3, 5)]),
        ("struct<x: decimal128(38, 2)>", f'{{"x": {"9" * 36}.25}}', {"x": Decimal("9" * 36 + ".25")}),
        ("struct<x: float32>", '{"x": 0.5}', {"x": 0.5}),
    ],
)
def test_values_in_objects_have_the_declared_type(kind, value, expected, ingestion, written):
    assert ingestion.rows(written("a.jsonl", lines(value)), types={"a": kind})[0]["a"] == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("struct<x: float32>", '{"x": 1e39}', "too large for float"),
        ("list<item: float32>", "[1e39]", "too large for float"),
        ("struct<x: decimal128(38, 2)>", f'{{"x": {"9" * 40}.25}}', f"contains '{'9' * 40}.25' in line 1"),
        ("struct<x: timestamp[s]>", '{"x": "9/30/2024"}', "contains '9/30/2024' in row 1"),
        ("struct<x: int64>", '{"x": 1, "y": 2}', "contains the field 'y' in line 1"),
    ],
)
def test_a_value_in_an_object_that_does_not_fit_is_refused(kind, value, message, ingestion, written):
    with pytest.raises(SchemaError, match=re.escape(message)):
        ingestion.run(written("a.jsonl", lines(value)), types={"a": kind})
