"""CSV files as programs write them: each value is kept, or one final error says which line and which option."""

from __future__ import annotations

import ast
import bz2
import csv
import io
import math
import re
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.core.errors import MalformedFileError, SchemaError, SpecError
from airflow_mlops.stages.ingest.csv_options import CsvOptions
from airflow_mlops.stages.ingest.sources.formats import csv as csv_format
from airflow_mlops.stages.ingest.sources.formats import source_file


@pytest.fixture
def rows(ingestion, written):
    def rows(content, types=None, columns=None, **options):
        return ingestion.rows(written("a.csv", content), csv=options, types=types or {}, columns=columns)

    return rows


@pytest.mark.parametrize(
    "content", ['[{"a": 1}]', '[\n  {"a": 1, "b": 2},\n  {"a": 3, "b": 4}\n]\n', '{"a": 1}\n{"a": 2}\n']
)
def test_json_is_named_as_json(rows, content):
    with pytest.raises(MalformedFileError, match="contains JSON, not CSV.*format"):
        rows(content)
    # Without a header, the first value can be JSON.
    assert rows('{"a": 1}\t2\n', sep="\t", quotechar=None, names=["a", "b"]) == [{"a": '{"a": 1}', "b": 2}]


@pytest.mark.parametrize(
    ("header", "message"), [("a,,c,", "^Columns 2, 4 of .* have no name"), ("a,", "^Column 2 of .* has no")]
)
def test_columns_without_a_name_are_counted(rows, header, message):
    with pytest.raises(SchemaError, match=message):
        rows(f"{header}\n1,2,3,4\n")


def test_the_error_names_the_option_with_which_row_numbers_without_a_name_are_read(rows):
    content = '"","a","b c"\n"1",2.5,"x"\n"2",3.5,"y"\n'
    with pytest.raises(SchemaError) as failure:
        rows(content)
    remedy = re.search(r"csv=(\{.*\}),", str(failure.value))
    assert remedy is not None
    assert rows(content, **ast.literal_eval(remedy[1]))[1] == {"column_1": 2, "a": 3.5, "b c": "y"}


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ('a,b\n1,"say \\"hi\\", ok"\n', {"escapechar": "\\"}, [{"a": 1, "b": 'say "hi", ok'}]),
        ("a\tb\n1\tx\\\ty\n", {"sep": "\t", "escapechar": "\\"}, [{"a": 1, "b": "x\ty"}]),
        ('a,b\n1,"say ""hi"""\n', {}, [{"a": 1, "b": 'say "hi"'}]),
        ('a,b\n1,5" pipe\n2,"x, y"\n', {}, [{"a": 1, "b": '5" pipe'}, {"a": 2, "b": "x, y"}]),
        ("a,b\n1,'x, y'\n", {"quotechar": "'"}, [{"a": 1, "b": "x, y"}]),
        ('a,b\n1,"x\n', {"quotechar": None}, [{"a": 1, "b": '"x'}]),
        ('a,b\n1,"x\ny"\n2,z\n', {}, [{"a": 1, "b": "x\ny"}, {"a": 2, "b": "z"}]),
        ("a|b\n1|2\n", {"sep": "|"}, [{"a": 1, "b": 2}]),
        ("sep=;\na;b\n1;2\n", {}, [{"a": 1, "b": 2}]),
        ('"sep=\t"\r\na\tb\r\n1\t2\r\n', {}, [{"a": 1, "b": 2}]),
        ("a;b\n1,5;2\n-0,25;3\n", {"sep": ";", "decimal": ","}, [{"a": 1.5, "b": 2}, {"a": -0.25, "b": 3}]),
        (
            "a;b\n1.234,5;1.000.000\n7,25;12\n",
            {"sep": ";", "decimal": ",", "thousands": "."},
            [{"a": 1234.5, "b": 1_000_000}, {"a": 7.25, "b": 12}],
        ),
        ('a,b\n"1,234",x\n', {"thousands": ","}, [{"a": 1234, "b": "x"}]),
        ('# by Ann, "today\na,b\n# c\n1,"2\n# 3"\n', {"comment": "#"}, [{"a": 1, "b": "2\n# 3"}]),
        ("Report\n\nof today\na,b\n1,2\n", {"skiprows": 3}, [{"a": 1, "b": 2}]),
        ("1,2\n3,4\n", {"names": ["x", "y"]}, [{"x": 1, "y": 2}, {"x": 3, "y": 4}]),
        ('"a\nb",c\n3,4\n', {"names": ["x", "y"], "header": 0}, [{"x": 3, "y": 4}]),
        ("a,b\n1,NA\n\\N,-\n", {"na_values": ["NA", "\\N", "-"]}, [{"a": 1, "b": None}, {"a": None, "b": None}]),
        (
            'a,b\n1,x\n\\N,"y, \\N, z"\n',
            {"escapechar": "\\", "escape_sequences": False},
            [{"a": 1, "b": "x"}, {"a": None, "b": "y, N, z"}],
        ),
        ('a,b\n1,"NA"\n2,NA\n', {"na_values": ["NA"]}, [{"a": 1, "b": None}, {"a": 2, "b": None}]),
        ('"a"\n""\n"2"\n', {}, [{"a": ""}, {"a": "2"}]),
        ('"a"\n""\n"2"\n', {"na_values": [""]}, [{"a": None}, {"a": 2}]),
        ('"a","b"\n"","x"\n"2",""\n', {"na_values": [""]}, [{"a": None, "b": "x"}, {"a": 2, "b": None}]),
        ('"a","b"\n"NULL",""\n"2","x"\n', {"na_values": ["NULL"]}, [{"a": None, "b": ""}, {"a": 2, "b": "x"}]),
        (
            'a, b\n1, "x, y"\n2,  "z ""q"" "\n',
            {"skipinitialspace": True},
            [{"a": 1, "b": "x, y"}, {"a": 2, "b": 'z "q" '}],
        ),
        (
            'a, b\n 1, "x\n y, z", \n',
            {"skipinitialspace": True, "names": ["a", "b", "c"], "header": 0},
            [{"a": 1, "b": "x\n y, z", "c": None}],
        ),
        (
            "a\tb\n1\t x\\\n  y\n",
            {"sep": "\t", "escapechar": "\\", "skipinitialspace": True},
            [{"a": 1, "b": "x\n  y"}],
        ),
        ("a, b\n1,  'x\n", {"quotechar": None, "skipinitialspace": True}, [{"a": 1, "b": "'x"}]),
        ("a,b\nNA,NA\n1,N\n", {"na_values": "NA"}, [{"a": None, "b": None}, {"a": 1, "b": "N"}]),
        (
            "a;b\n1\u00a0234,5;x\n2,25;y\n",
            {"sep": ";", "decimal": ",", "thousands": "\u00a0"},
            [{"a": 1234.5, "b": "x"}, {"a": 2.25, "b": "y"}],
        ),
        ("a;b\n1\u202f234\u202f567;x\n", {"sep": ";", "thousands": "\u202f"}, [{"a": 1234567, "b": "x"}]),
        ("\n\r\na,b\n\n1,2\n\n", {}, [{"a": 1, "b": 2}]),
        ("a,b\r1,2\r3,4\r", {}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ("a,b\n1,2", {}, [{"a": 1, "b": 2}]),
        ("\n\na,b\n1,2", {}, [{"a": 1, "b": 2}]),
        ("a,b\n1,\u00e9\n".encode("utf-16"), {}, [{"a": 1, "b": "\u00e9"}]),
        ("a,b\n1,\u00e9\n".encode("utf-32"), {}, [{"a": 1, "b": "\u00e9"}]),
        ("\ufeffa,b\n1,\u00e9\n", {}, [{"a": 1, "b": "\u00e9"}]),
        ("\ufeffa,b\n1,\u00e9\n", {"encoding": "latin-1"}, [{"a": 1, "b": "\u00e9"}]),
        ("a,b\n1,\u00e9\n".encode("latin-1"), {"encoding": "latin-1"}, [{"a": 1, "b": "\u00e9"}]),
        ("a,b\n1,\u20ac\n".encode("cp1252"), {"encoding": "cp1252"}, [{"a": 1, "b": "\u20ac"}]),
        ("a,\u00e9\n1,2\n".encode("utf-16-le"), {"encoding": "utf-16-le"}, [{"a": 1, "\u00e9": 2}]),
    ],
)
def test_a_file_is_read_as_its_program_wrote_it(content, options, expected, rows):
    assert rows(content, **options) == expected


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", "\u202f", "\u3000"])
@pytest.mark.parametrize("types", [{}, {"a": "int64", "b": "float64", "c": "decimal128(5, 2)"}])
def test_spaces_around_numbers_are_not_part_of_them(space, types, rows):
    content = f"a;b;c;d\n12{space};{space}1.5;{space}2.25{space};12{space}\n7;2.5;3.25;x\n"
    first, second = rows(content, types=types, sep=";")
    assert (first["a"], first["b"], float(first["c"]), first["d"]) == (12, 1.5, 2.25, f"12{space}")
    assert second["a"] == 7


COPY = {"sep": "\t", "quotechar": None, "escapechar": "\\", "names": ["a", "b"]}


@pytest.mark.parametrize("block", [16, 1 << 20])
def test_the_text_format_of_postgres_is_decoded(block, rows, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    content = "1\tx\\ty\\nz\\\\w\n2\t\\N\n3\tC:\\\\new\n4\ta\\bb\\fb\\rr\\vv\\0\n5\t\\\\N\n"
    found = rows(content, escape_sequences=True, **COPY)
    assert [row["b"] for row in found] == ["x\ty\nz\\w", None, "C:\\new", "a\bb\fb\rr\vv\0", "\\N"]
    assert [row["a"] for row in found] == [1, 2, 3, 4, 5]


def test_the_names_in_the_header_are_decoded_as_well(rows):
    assert rows("a\\tb\tc\n1\t2\n", sep="\t", escapechar="\\", escape_sequences=True) == [{"a\tb": 1, "c": 2}]


def test_a_backslash_before_a_letter_is_not_dropped_silently(rows):
    content = "1\tx\n2\tx\\ty\n"
    with pytest.raises(MalformedFileError, match=r"a\.csv contains \\t in line 2, .*'escape_sequences': True.* False"):
        rows(content, **COPY)
    assert [row["b"] for row in rows(content, **COPY, escape_sequences=False)] == ["x", "xty"]
    with pytest.raises(MalformedFileError, match=r"escape sequence \\d in line 1"):
        rows("1\t\\d\n", **COPY, escape_sequences=True)
    assert rows("a,b\n1,x\\ty\n") == [{"a": 1, "b": "x\\ty"}]


@pytest.mark.parametrize("suffix", ["tsv", "tab", "TSV"])
def test_the_suffix_of_a_file_with_tabs_sets_the_separator(suffix, ingestion, written):
    assert ingestion.rows(written(f"a.{suffix}", "a\tb\n1\tx, y\n")) == [{"a": 1, "b": "x, y"}]
    assert ingestion.rows(written(f"b.{suffix}", "a;b\n1;x\n"), name="b", csv={"sep": ";"}) == [{"a": 1, "b": "x"}]
    assert ingestion.rows(written(f"c.{suffix}", "sep=;\na;b\n1;x\n"), name="c") == [{"a": 1, "b": "x"}]
    with pytest.raises(SchemaError, match=r"'a,b', because the separator is '\\t'.*'sep': ','"):
        ingestion.run(written(f"d.{suffix}", "a,b\n1,x\n"))


def test_a_text_file_needs_a_format(ingestion, written):
    path = written("a.txt", "a\tb\n1\tx\n")
    with pytest.raises(SpecError, match=r"a\.txt .*format='csv' and csv=\{'sep': '\\t'\}"):
        ingestion.run(path)
    assert ingestion.rows(path, format="csv", csv={"sep": "\t"}) == [{"a": 1, "b": "x"}]


def test_a_single_null_text_is_one_text(ingestion, written):
    path = written("a.csv", "a,b\nNA,1\nN,2\n")
    assert [row["a"] for row in ingestion.rows(path, null_values="NA")] == [None, "N"]
    content = "b\nyes\nno\n"
    found = ingestion.rows(
        written("b.csv", content), name="b", types={"b": "bool"}, csv={"true_values": "yes", "false_values": "no"}
    )
    assert [row["b"] for row in found] == [True, False]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        (["1 234", "12 345 678.5", "7"], {"thousands": " "}),
        (["1\u00a0234,5", "7"], {"thousands": "\u00a0", "decimal": ","}),
        (["1\u202f234", "7"], {"thousands": "\u202f"}),
        (["1\u2019234.5", "7"], {"thousands": "\u2019"}),
        (["1 234", "1'234"], None),
        (["1 2345", "7 1"], None),
    ],
)
def test_a_number_column_that_is_text_because_of_its_groups_is_noted(values, option, ingestion, written):
    path = written("a.csv", "\n".join(["n;s", *(f"{value};x" for value in values)]))
    found = ingestion.rows(path, csv={"sep": ";"})
    assert [row["n"] for row in found] == values
    notes = ingestion.result.notes
    if option is None:
        assert not [note for note in notes if "grouped" in note]
    else:
        assert [repr(option) in note for note in notes] == [True]
        assert not isinstance(ingestion.rows(path, name="b", csv={"sep": ";", **option})[0]["n"], str)


def test_a_declared_integer_may_be_written_with_decimals_that_are_zeros(rows):
    types = {"v": "int64"}
    assert [row["v"] for row in rows("v,w\n1,1\n2.0,1\n,1\n", types)] == [1, 2, None]
    assert [row["v"] for row in rows("v;w\n2,0;1\n", types, sep=";", decimal=",")] == [2]
    with pytest.raises(SchemaError, match=r"'v' is declared int64 .*'1\.5' in line 5 .*float64"):
        rows("v,w\n1.0,1\n1\n\n1.5,1\n", types, on_bad_lines="skip")


def test_a_number_that_is_too_large_is_not_infinity(rows):
    assert rows("v,w\ninf,1\n-Infinity,2\n1.5,3\n", {"v": "float64"})[1]["v"] == -math.inf
    with pytest.raises(SchemaError, match=r"'v' is declared double .*'1e400' in line 3 "):
        rows("v,w\ninf,1\n1e400,1\n", {"v": "float64"})


def test_bad_rows_of_a_file_with_infinity_are_counted_once(ingestion, written):
    path = written("a.csv", "a,b\ninf,x\n1\n2,y\n")
    result = ingestion.run(path, types={"a": "float64"}, csv={"on_bad_lines": "skip"})
    assert [note for note in result.notes if "Skipped 1 row " in note]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(
        st.lists(
            st.tuples(st.integers(0, 2), st.text(st.sampled_from("a, \n'\""), max_size=5)), min_size=2, max_size=2
        ),
        min_size=1,
        max_size=6,
    ),
    block=st.sampled_from([16, 1000]),
)
def test_spaces_after_separators_are_removed_and_others_are_kept(table, block, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    lines = [",".join(" " * spaces + '"' + text.replace('"', '""') + '"' for spaces, text in row) for row in table]
    content = "\n".join(["first,  second", *lines]).encode()
    found = [list(row.values()) for row in read_text(content, CsvOptions(skipinitialspace=True))]
    assert found == [[text for _, text in row] for row in table]


@pytest.mark.parametrize("kind", ["int64", "float64", "bool", "date32", "timestamp[us]", "decimal128(9, 2)"])
@pytest.mark.parametrize("options", [{}, {"thousands": "'"}])
def test_a_quoted_null_text_is_null_in_a_column_of_another_type_than_text(kind, options, rows):
    content = '"s","v","t","u"\n"NULL","","NULL",""\n"","NULL","",""\n"x","","y","1"\n'
    found = rows(content, {"s": "string", "v": kind}, na_values=["NULL"], **options)
    assert [row["v"] for row in found] == [None] * 3
    assert [row["s"] for row in found] == ["NULL", "", "x"]
    assert [row["t"] for row in found] == [None, "", "y"]
    assert [list(row) for row in found] == [["s", "v", "t", "u"]] * 3


def test_bad_rows_of_a_file_with_quoted_nulls_are_counted_once(ingestion, written):
    path = written("a.csv", '"a","b"\n"","x"\n"1"\n"2","y"\n')
    result = ingestion.run(path, types={"a": "int64"}, csv={"on_bad_lines": "skip"})
    assert [note for note in result.notes if "Skipped 1 row " in note]


def test_the_note_about_quoted_empty_values_among_numbers_names_an_option_that_works(ingestion, written):
    path = written("a.csv", '"id","v"\n"0",""\n"1","2"\n')
    (note,) = ingestion.run(path, name="a").notes
    assert "csv={'na_values': ['']}" in note
    assert [row["v"] for row in ingestion.rows(path, name="b", csv={"na_values": [""]})] == [None, 2]


@pytest.mark.parametrize(
    ("content", "options", "error", "facts"),
    [
        ('a,b\n1,"say \\"hi\\""\n', {}, MalformedFileError, ["line 2", "'escapechar'"]),
        ('a,b\n1,2\n3,"x"y"\n', {}, MalformedFileError, ["line 3", "quotechar"]),
        ('a,b\n1,""x"\n', {}, MalformedFileError, ["line 2"]),
        ('a,b\n1,"x""y"\n', {"doublequote": False}, MalformedFileError, ["line 2"]),
        ('a,b\n1,2\n1,"x\n2,3\n', {}, MalformedFileError, ["line 3", "quote"]),
        ("a,b\n1,2\n\n3\n4,5\n6,7,8\n", {}, MalformedFileError, ["2 rows", "line 4: 1", "line 6: 3", "'skip'"]),
        ('a,b\n"x\ny",2\n3\n', {}, MalformedFileError, ["1 row", "line 4: 1"]),
        ("# c\na,b\n1\n", {"comment": "#"}, MalformedFileError, ["line 3: 1"]),
        ("x\na,b\n1\n", {"skiprows": 1}, MalformedFileError, ["line 3: 1"]),
        ("1,2\n3\n", {"names": ["x", "y"]}, MalformedFileError, ["line 2: 1"]),
        ("a;b\n1;2\n", {}, SchemaError, ["'a;b'", "'sep': ';'"]),
        ("sep=;\na;b\n1;2\n", {"sep": "|"}, SpecError, ["sep=;", "'|'"]),
        (",a\n0,1\n", {}, SchemaError, ["Column 1", "'names': ['column_1', 'a']", "`columns`"]),
        # latin-1 would read the bytes 0x80 to 0x9f as control characters, without an error.
        ("a,b\n1,\u20ac\n".encode("cp1252"), {}, SchemaError, ["'b'", "line 2", "'encoding': 'cp1252'"]),
        ("a,\u20ac\n1,2\n".encode("cp1252"), {}, MalformedFileError, ["header", "'encoding': 'cp1252'"]),
        ("a,b\n1,2\n".encode("utf-16-le"), {}, MalformedFileError, ["NUL", "utf-16-le"]),
        ("a,b\n1,2\n".encode("utf-16")[:-1], {}, MalformedFileError, ["utf-16-le", "line 2"]),
        ("a\n\u00e9\n".encode("latin-1"), {"encoding": "ascii"}, MalformedFileError, ["ascii", "line 1"]),
        ("<!DOCTYPE html><p>Sign in</p>", {}, MalformedFileError, ["HTML"]),
        (b"PAR1\x15\x04", {}, MalformedFileError, ["Parquet"]),
        (b"ARROW1\0\0", {}, MalformedFileError, ["Arrow"]),
        (bz2.compress(b"a\n1\n"), {}, MalformedFileError, ["bzip2"]),
        (b"\x1f\x8b\x08", {}, MalformedFileError, ["gzip"]),
    ],
)
def test_text_that_arrow_would_misread_is_an_error_that_names_line_and_option(content, options, error, facts, rows):
    with pytest.raises(error) as raised:
        rows(content, **options)
    assert not raised.value.retryable
    assert all(fact in str(raised.value) for fact in ["a.csv", *facts]), raised.value


@pytest.mark.parametrize("name", ["par1", "PAR1", "BZhour", "bzh", "arrow1", "ARROW1"])
def test_a_header_may_begin_like_the_signature_of_another_format(name, rows):
    assert rows(f"{name},b\n1,2\n") == [{name: 1, "b": 2}]


def test_irregular_rows_can_be_left_out_and_are_counted_in_the_whole_file(ingestion, written, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 100)
    lines = ["a,b", *("1" if number % 50 == 0 else "1,2" for number in range(1, 1000))]
    path = written("a.csv", "\n".join(lines))
    with pytest.raises(MalformedFileError, match=r"19 rows .*\(line 51: 1, line 101: 1.*, …\)"):
        ingestion.run(path)
    assert len(ingestion.rows(path, csv={"on_bad_lines": "skip"})) == 980
    (read,) = ingestion.manifest().source["read"]
    assert (read["bad_lines"]["rows"], read["bad_lines"]["lines"][:2]) == (19, [51, 101])
    (note,) = ingestion.result.notes
    assert "19 rows" in note
    assert note in caplog.text


def test_a_repeated_header_is_not_a_row(ingestion, written, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 100)
    lines = ["id,amount", *("id,amount" if number in (40, 90) else f"{number},1.5" for number in range(1, 100))]
    path = written("a.csv", "\r\n".join(lines))
    with pytest.raises(MalformedFileError, match="repeats its header in line 41"):
        ingestion.run(path)
    found = ingestion.rows(path, csv={"on_bad_lines": "skip"})
    assert (len(found), found[0]) == (97, {"id": 1, "amount": 1.5})
    assert "2 rows that repeat the header" in ingestion.result.notes[0]
    # A row that only begins like the header, and the only column of a file, are data.
    assert len(ingestion.rows(written("b.csv", "id,amount\nid,2\n"))) == 1
    assert len(ingestion.rows(written("c.csv", "id\nid\n"))) == 1


def test_a_wrong_row_in_a_large_block_is_found_quickly(rows):
    started = time.process_time()
    with pytest.raises(MalformedFileError, match="line 300002: 1"):
        rows("a,b\n" + "1,2\n" * 300_000 + "3\n")
    assert time.process_time() - started < 10


@pytest.mark.parametrize("token", ["NA", "-", "\\N", "null", "?"])
def test_a_number_column_that_is_text_because_of_a_null_token_is_noted(token, ingestion, written):
    path = written("a.csv", f"n,s,i\n1,{token},007\n{token},x,008\n3.5,y,009\n")
    assert ingestion.rows(path)[1]["n"] == token
    (note,) = ingestion.result.notes
    assert "'n'" in note
    assert repr([token]) in note
    assert [row["n"] for row in ingestion.rows(path, name="b", csv={"na_values": [token]})] == [1, None, 3.5]
    assert ingestion.result.notes == []


def test_a_null_token_is_noted_once_wherever_it_stands(ingestion, written, tmp_path, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 100)
    for name in ("a", "b"):
        written(f"many/{name}.csv", "n\n" + "1\n" * 500 + "NA\n")
    ingestion.run(tmp_path / "many")
    assert [note.partition(" is ")[0] for note in ingestion.result.notes] == ["Column 'n'"]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        (["1,5", "2", "-7,25"], {"decimal": ","}),
        (["1.234,5", "7,25"], {"decimal": ",", "thousands": "."}),
        (["1,234", "1,234,567.5", "3"], {"thousands": ","}),
        (["1,2,3", "4,5,6"], None),
        (["1.234", "2.5"], None),
        (["0,134", "1,255"], {"decimal": ","}),
    ],
)
def test_a_number_column_that_is_text_because_of_its_commas_is_noted(values, option, ingestion, written):
    path = written("a.csv", "\n".join(["n;s", *(f"{value};x" for value in values)]))
    found = ingestion.rows(path, csv={"sep": ";"})
    notes = ingestion.result.notes
    if option is None:
        assert notes == []
    else:
        assert [row["n"] for row in found] == values
        assert [repr(option) in note for note in notes] == [True]
        numbers = ingestion.rows(path, name="b", csv={"sep": ";", **option})
        assert all(isinstance(row["n"], float) for row in numbers)


def test_a_comma_that_may_be_either_is_noted_with_both_meanings(ingestion, written):
    ingestion.rows(written("a.csv", "n;s\n2,375;x\n1,250;y\n"), csv={"sep": ";"})
    (note,) = ingestion.result.notes
    assert "csv={'thousands': ','} if 1,250 means 1250, or csv={'decimal': ','} if it means 1.250." in note


def test_declared_numbers_may_have_grouped_digits(rows):
    content = 'a;b;c\n1.234,5;1.000;"x"\n2;;y\n'
    options = {"sep": ";", "decimal": ",", "thousands": "."}
    types = {"a": "decimal128(10, 2)", "b": "int64", "c": "string"}
    found = rows(content, types=types, **options)
    assert [(str(row["a"]), row["b"], row["c"]) for row in found] == [("1234.50", 1000, "x"), ("2.00", None, "y")]
    with pytest.raises(SchemaError, match="'b'"):
        rows("b\n12.34\n", types={"b": "int64"}, **options)


def test_booleans_may_have_other_names(rows):
    found = rows("b\nyes\nno\n", types={"b": "bool"}, true_values=["yes"], false_values=["no"])
    assert found == [{"b": True}, {"b": False}]


def test_columns_without_a_name_need_not_be_read(rows):
    assert rows(",a,\n0,1,\n", columns=["a"]) == [{"a": 1}]


def test_the_error_for_a_declared_type_names_the_line(rows, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 64)
    with pytest.raises(SchemaError, match=r"'n' .*'x' in line 92 "):
        rows("n,s\n" + '1,"a\nb"\n' * 45 + "x,c\n", types={"n": "int64"})


def test_hexadecimal_text_beside_integers_changes_no_value(rows, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 64)
    content = "n,s\n" + "1,a\n" * 45 + "2,0x10\n3.0,b\n"
    found = rows(content, types={"n": "int64"})
    assert [row["n"] for row in found] == [1] * 45 + [2, 3]
    assert found[45]["s"] == "0x10"
    with pytest.raises(SchemaError, match=r"'n' .*'0x10' in line 49 "):
        rows(content + "0x10,c\n", types={"n": "int64"})
    with pytest.raises(SchemaError, match="'0x10'"):
        rows("n\n0x10\n1\n", types={"n": "timestamp[s, tz=UTC]"})


def test_an_unclosed_quote_does_not_read_the_whole_file_into_memory(rows, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(source_file, "MAX_RECORD_BYTES", 10_000)
    with pytest.raises(MalformedFileError, match="begins in line 3"):
        rows('a,b\n1,2\n1,"x\n' + "2,3\n" * 10_000)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"separator": ";"}, "sep, quotechar"),
        ({"delimiter": ";"}, "`sep`"),
        ({"dtype": {}}, "`types`"),
        ({"sep": ";;"}, "csv.sep"),
        ({"sep": "\u00a7"}, "csv.sep"),
        ({"sep": "\n"}, "csv.sep"),
        ({"sep": '"'}, "different"),
        ({"decimal": ",", "thousands": ","}, "different"),
        ({"encoding": "klingon"}, "klingon"),
        ({"encoding": "base64"}, "base64"),
        ({"header": None}, "`names`"),
        ({"names": ["a", "a"]}, "twice"),
        ({"on_bad_lines": "warn"}, "on_bad_lines"),
        ({"escape_sequences": True}, "`escapechar`"),
        ({"thousands": "\u00e9"}, "csv.thousands"),
    ],
)
def test_an_option_that_does_not_exist_or_contradicts_another_is_refused(options, fact, rows):
    with pytest.raises(SpecError) as raised:
        rows("a\n1\n", **options)
    assert fact in str(raised.value)


def test_the_short_forms_of_two_options_still_work(ingestion, written):
    path = written("a.csv", "a;b\n1;NA\n")
    assert ingestion.rows(path, delimiter=";", null_values=["NA"]) == [{"a": 1, "b": None}]
    with pytest.raises(SpecError, match="`delimiter`"):
        ingestion.run(path, delimiter=";", csv={"sep": "|"})


_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r\0"), max_size=6)
_SPECIAL = st.text(st.sampled_from("a,;\"\n\\#'| 1"), max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.lists(st.one_of(_TEXT, _SPECIAL), min_size=2, max_size=2), min_size=1, max_size=8),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    escaped=st.booleans(),
    sep=st.sampled_from(",;\t|"),
    encoding=st.sampled_from([None, "utf-16", "utf-8-sig", "utf-32"]),
    ending=st.sampled_from(["\n", "\r\n"]),
    block=st.sampled_from([16, 64, 1000]),
)
def test_text_written_by_pythons_csv_writer_is_read_back(
    table, quoting, escaped, sep, encoding, ending, block, monkeypatch
):
    text = io.StringIO()
    escape = {"escapechar": "\\", "doublequote": False} if escaped else {}
    writer = csv.writer(text, delimiter=sep, quoting=quoting, lineterminator=ending, **escape)
    writer.writerows([["first", "second"], *table])
    monkeypatch.setattr(source_file, "BLOCK_BYTES", block)
    options = CsvOptions(sep=sep, **escape)
    content = text.getvalue().encode(encoding or "utf-8")
    found = [list(row.values()) for row in read_text(content, options)]
    assert [[value or "" for value in row] for row in found] == table


def read_text(content, options):
    """Read a CSV file as text, without a store."""
    from fsspec.core import OpenFile
    from fsspec.implementations.memory import MemoryFileSystem

    from airflow_mlops.data.incoming.types import ColumnTypes
    from airflow_mlops.stages.ingest.spec import IngestSpec

    store = MemoryFileSystem()
    store.pipe_file("/test_csv/a.csv", content)
    spec = IngestSpec(name="a", files=["a.csv"], csv=options)
    file = source_file.SourceFile(OpenFile(store, "/test_csv/a.csv"), spec, ColumnTypes(), None, [])
    return [row for batch in csv_format.read(file) for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("price;n\n12.5;1\n7.50;2\n9;3\n", {}, [12.5, 7.5, 9]),
        ("price;n\n12,5;1\n7,50;2\n9;3\n", {"decimal": ","}, [12.5, 7.5, 9]),
        ("price;n\n1.234,50;1\n7,5;2\n", {"decimal": ",", "thousands": "."}, [1234.5, 7.5]),
    ],
)
def test_a_note_names_a_column_of_numbers_that_is_kept_as_text(content, options, expected, ingestion, written):
    path, options = written("a.csv", content), {"sep": ";", **options}
    (note,) = ingestion.run(path, csv=options, window="2013-01").notes
    assert "'price'" in note
    assert "types={'price': 'float64'}" in note
    assert ingestion.manifest().source["notes"] == [note]
    for window in ("2013-01", "2013-02"):
        rows = ingestion.rows(path, csv=options, window=window, types={"price": "float64"})
        assert [row["price"] for row in rows] == expected
    assert not ingestion.result.notes


@pytest.mark.parametrize(
    ("value", "kind", "advice"),
    [
        ("1,5", "float64", "set csv={'decimal': ','}."),
        ("1.234,50", "float64", "set csv={'decimal': ',', 'thousands': '.'}."),
        ("1,234", "float64", "set csv={'decimal': ','} or csv={'thousands': ','}."),
        ("1,234", "int64", "set csv={'thousands': ','}."),
        ("1.5", "int64", "types={'v': 'float64'}."),
        ("1,5", "decimal128(5, 2)", "set csv={'decimal': ','}."),
        ("NA", "decimal128(5, 2)", "null_values=['NA']."),
        ("12345.678", "decimal128(5, 2)", "types={'v': 'decimal128(38, 3)'}."),
        ("12345678901234567890", "int64", "types={'v': 'string'}."),
        ("12 km", "float64", "types={'v': 'string'}."),
        ("0x10", "int64", "types={'v': 'string'}."),
        ("-0XFF", "int32", "types={'v': 'string'}."),
        ("yes", "bool", "'true', '1', 'false', '0', with csv={'true_values': [...], 'false_values': [...]}."),
        ("N/A", "float64", "null_values=['N/A']."),
        ("-", "bool", "null_values=['-']."),
        ("#N/A", "int64", "null_values=['#N/A']."),
        ("NULL", "int64", "null_values=['NULL']."),
    ],
)
def test_the_error_for_a_wrong_value_suggests_a_remedy_that_fits_the_value(value, kind, advice, rows):
    with pytest.raises(SchemaError) as raised:
        rows(f"v;w\n{value};1\n", {"v": kind}, sep=";")
    assert str(raised.value).endswith(advice)
    assert ("null_values" in str(raised.value)) == ("null_values" in advice)


@pytest.mark.parametrize("kind", ["list<item: string>", "large_list<item: int64>"])
def test_a_type_that_csv_cannot_contain_is_refused(kind, rows):
    with pytest.raises(SpecError, match=r"'a' is declared .*, which a CSV file cannot contain.*types={'a': 'string'}"):
        rows("a,b\nx,1\n", {"a": kind})


def test_a_column_can_be_selected_only_once(rows):
    with pytest.raises(SpecError, match="`columns` contains 'a' more than once"):
        rows("a,b\n1,2\n", columns=["a", "a"])
