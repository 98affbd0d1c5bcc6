"""JSON files: lines, an array, records under a key; each value that is not a record is an error with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import MalformedFileError, SchemaError, SpecError
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


def test_an_object_with_an_array_is_a_question(ingestion, written):
    path = written("a.json", json.dumps({"page": {"items": ROWS}}))
    with pytest.raises(SchemaError, match=r"record_path=\['page', 'items'\].*record_path=\[\]"):
        ingestion.run(path)
    assert ingestion.rows(path, record_path=[]) == [{"page": {"items": ROWS}}]
    assert ingestion.rows(written("b.json", '{"a": {"b": [1]}}'), name="b") == [{"a": {"b": [1]}}]


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
def test_a_table_by_column_is_not_a_row(document, ingestion, written):
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
def test_what_is_not_a_record_is_a_final_error_with_its_place(name, content, options, error, facts, ingestion, written):
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
