"""Ingestion of files: the rows of the window become one dataset, or one clear error leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zipfile
from datetime import date, datetime, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import EmptyWindowError, MalformedFileError, SchemaError, SourceError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.ingest.sources.formats import source_file
from airflow_mlops.stages.ingest.spec import IngestSpec
from airflow_mlops.stages.ingest.step import run

ROWS = [
    {"t": "2013-03-31T23:59:59Z", "n": 1, "x": 0.5, "s": "a"},
    {"t": "2013-04-01T00:00:00Z", "n": 2, "x": 1.5, "s": "b"},
    {"t": "2013-04-30T23:59:59Z", "n": 3, "x": 2.5, "s": "c"},
    {"t": "2013-05-01T00:00:00Z", "n": 4, "x": 3.5, "s": "d"},
]


@pytest.fixture
def context(tmp_path):
    return StepContext(ArtifactStore(f"file://{tmp_path}/store"), provenance=Provenance(dag_id="d", task_id="t"))


@pytest.fixture
def ingest(context):
    def ingest(files, **options):
        options = {"name": "raw", "files": [str(files)] if not isinstance(files, list) else files, **options}
        return run(parse(IngestSpec, options, "Step 'ingest'"), context)

    return ingest


def table(context, result):
    return open_dataset(context.store, result.dataset).table()


def manifest(context, result):
    return open_dataset(context.store, result.dataset).manifest


def store_is_empty(context):
    return [path for path in context.store.fs.find(context.store.root) if "/results/" not in path] == []


def write(folder, form, rows=ROWS, name="rows"):
    path = folder / f"{name}.{form}"
    if form == "csv":
        lines = [",".join(rows[0])] + [",".join(str(value) for value in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_rows_of_the_window_are_archived_unchanged(form, tmp_path, context, ingest):
    path = write(tmp_path, form)
    result = ingest(path, window="2013-04", time_column="t", owner="Ann", description="Two rows")
    assert table(context, result).to_pylist() == ROWS[1:3]
    found = manifest(context, result)
    assert (found.owner, found.description, str(found.window)) == (
        "Ann",
        "Two rows",
        "2013-04-01T00:00:00Z/2013-05-01T00:00:00Z",
    )
    (read,) = found.source["read"]
    assert read == {
        "file": f"file://{path}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
    }
    assert found.provenance.dag_id == "d"
    assert "2 rows x 4 columns of raw for 2013-04" in result.summary


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_ingesting_a_window_again_gives_the_same_dataset(form, tmp_path, ingest):
    path = write(tmp_path, form)
    first = ingest(path, window="2013-04", time_column="t")
    again = ingest(path, window="2013-04", time_column="t")
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.dataset == first.dataset
    assert "unchanged" in again.summary


def test_a_snapshot_has_no_window(tmp_path, context, ingest):
    result = ingest(write(tmp_path, "csv"))
    assert result.dataset.window is None
    assert table(context, result).num_rows == 4


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_files_of_a_glob_are_read_in_the_order_of_their_names(form, tmp_path, context, ingest):
    for name, row in zip(["c", "a", "b"], ROWS, strict=False):
        write(tmp_path, form, [row], name)
    result = ingest(tmp_path / f"*.{form}")
    assert table(context, result)["n"].to_pylist() == [2, 3, 1]
    read = [file["file"].rpartition("/")[2] for file in manifest(context, result).source["read"]]
    assert read == [f"a.{form}", f"b.{form}", f"c.{form}"]


def test_compressed_files_and_members_of_zip_archives_are_read(tmp_path, context, ingest):
    path = write(tmp_path, "csv")
    with zipfile.ZipFile(tmp_path / "rows.csv.zip", "w") as archive:
        archive.write(path, "inner.csv")
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    for url in (
        f"zip://inner.csv::file://{tmp_path}/rows.csv.zip",
        f"{tmp_path}/rows.csv.zip",
        f"{tmp_path}/rows.csv.gz",
    ):
        result = ingest(url)
        assert table(context, result)["n"].to_pylist() == [1, 2, 3, 4]
        assert manifest(context, result).source["read"][0]["sha256"] == wanted


def test_parquet_on_another_filesystem_is_read(tmp_path, context, ingest):
    store = ArtifactStore(f"memory://{tmp_path}")
    store.write_bytes("in.parquet", write(tmp_path, "parquet").read_bytes())
    assert table(context, ingest(f"memory://{tmp_path}/in.parquet")).num_rows == 4


def test_selected_columns_and_declared_types_are_applied(tmp_path, context, ingest):
    path = write(tmp_path, "csv")
    result = ingest(
        path,
        window="2013-04",
        time_column="t",
        columns=["n", "x"],
        types={"n": "string"},
    )
    assert table(context, result).to_pydict() == {"n": ["2", "3"], "x": [1.5, 2.5]}
    result = ingest(path, types={"t": "timestamp[us, tz=UTC]"}, name="typed")
    assert table(context, result)["t"][1].as_py() == datetime(2013, 4, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_text_that_looks_like_a_time_stays_text(form, tmp_path, context, ingest):
    path = write(tmp_path, form, [{"t": "2013-04-01T00:00:00Z", "d": "2013-04-01"}])
    assert table(context, ingest(path)).to_pylist() == [{"t": "2013-04-01T00:00:00Z", "d": "2013-04-01"}]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["2013-03-31 23:59:59", "2013-04-01 00:00:00"], [False, True]),
        (["2013-03-31", "2013-04-01"], [False, True]),
        (["2013-04-01T01:00:00+02:00", "2013-04-01T02:00:00+02:00"], [False, True]),
        ([date(2013, 3, 31), date(2013, 4, 1)], [False, True]),
        ([datetime(2013, 3, 31, 23), datetime(2013, 4, 30, 23)], [False, True]),
        ([datetime(2013, 5, 1, tzinfo=timezone.utc), datetime(2013, 4, 1, tzinfo=timezone.utc)], [False, True]),
        ([None, datetime(2013, 4, 1)], [False, True]),
    ],
)
def test_every_form_of_time_is_parsed(values, kept, tmp_path, context, ingest):
    pq.write_table(pa.table({"t": values, "n": [0, 1]}), tmp_path / "a.parquet")
    result = ingest(tmp_path / "a.parquet", window="2013-04", time_column="t")
    assert table(context, result)["n"].to_pylist() == [n for n in (0, 1) if kept[n]]


def test_rows_without_a_time_are_skipped_and_counted(tmp_path, context, ingest, caplog):
    caplog.set_level("INFO")
    pq.write_table(pa.table({"t": [None, "2013-04-01"]}), tmp_path / "a.parquet")
    result = ingest(tmp_path / "a.parquet", window="2013-04", time_column="t")
    assert manifest(context, result).source["rows_without_time"] == 1
    assert result.notes == ["Skipped 1 row in which the time column 't' is null."]
    assert manifest(context, result).source["notes"] == result.notes
    assert result.notes[0] in caplog.text
    with pytest.raises(EmptyWindowError, match=r"no rows in the window 2013-05.*Skipped 1 row in which .* 't' is null"):
        ingest(tmp_path / "a.parquet", window="2013-05", time_column="t")


def test_the_error_for_an_invalid_time_shows_it(tmp_path, context, ingest):
    write(tmp_path, "csv", [{"t": "04/01/2013", "n": 1}])
    with pytest.raises(SchemaError, match=r"'t' of .*04/01/2013"):
        ingest(tmp_path / "rows.csv", window="2013-04", time_column="t")
    write(tmp_path, "csv", [{"t": 1364774400, "n": 1}])
    with pytest.raises(SchemaError, match="'t' of .*'1364774400'"):
        ingest(tmp_path / "rows.csv", window="2013-04", time_column="t")
    result = ingest(tmp_path / "rows.csv", window="2013-04", time_column="t", types={"t": "timestamp[s, tz=UTC]"})
    assert result.dataset.rows == 1


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_nan_and_infinities_are_kept(form, tmp_path, context, ingest):
    path = tmp_path / f"a.{form}"
    if form == "csv":
        path.write_text("x\nNaN\ninf\n-inf\n1.5\n\n\n")
    elif form == "jsonl":
        path.write_text('{"x": NaN}\n{"x": Infinity}\n{"x": -Infinity}\n{"x": 1.5}\n{"x": null}\n')
    else:
        pq.write_table(pa.table({"x": [math.nan, math.inf, -math.inf, 1.5, None]}), path)
    found = table(context, ingest(path))["x"].to_pylist()
    assert math.isnan(found[0])
    assert found[1:4] == [math.inf, -math.inf, 1.5]


def test_by_default_only_an_empty_cell_is_null(tmp_path, context, ingest):
    (tmp_path / "a.csv").write_text('country,n\nNA,1\n,2\n"",NA\n')
    found = table(context, ingest(tmp_path / "a.csv")).to_pydict()
    assert found == {"country": ["NA", None, ""], "n": ["1", "2", "NA"]}
    found = table(context, ingest(tmp_path / "a.csv", name="b", null_values=["NA"])).to_pydict()
    assert found == {"country": [None, None, ""], "n": [1, 2, None]}


def test_quoted_line_breaks_and_other_delimiters_are_read(tmp_path, context, ingest):
    (tmp_path / "a.csv").write_text('a;b\n1;"x\ny;z"\n')
    assert table(context, ingest(tmp_path / "a.csv", delimiter=";")).to_pylist() == [{"a": 1, "b": "x\ny;z"}]


def test_a_json_field_whose_type_changes_is_named_and_can_be_declared(tmp_path, context, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    path = write(tmp_path, "jsonl", [{"a": n if n < 400 else 1.5, "b": n} for n in range(500)])
    with pytest.raises(SchemaError, match=r"'a' is int64 .*'1.5'.*types=\{'a': "):
        ingest(path)
    assert store_is_empty(context)
    result = ingest(path, types={"a": "float64"})
    assert table(context, result)["a"][450].as_py() == 1.5


def test_a_json_field_that_is_null_in_the_first_block_is_not_guessed(tmp_path, context, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    path = write(tmp_path, "jsonl", [{"a": None if n < 400 else "x", "b": n} for n in range(500)])
    with pytest.raises(SchemaError, match=r"'a' is null "):
        ingest(path)
    assert table(context, ingest(path, types={"a": "string"}))["a"][450].as_py() == "x"


@pytest.mark.parametrize("late", ["1.5", "x", "NA"])
def test_the_type_of_a_csv_column_follows_from_all_rows(late, tmp_path, context, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    path = write(tmp_path, "csv", [{"a": n if n < 400 else late, "b": "" if n < 400 else n} for n in range(500)])
    found = table(context, ingest(path))
    assert str(found.schema.field("a").type) == ("double" if late == "1.5" else "string")
    assert found.slice(399, 2).to_pydict() == {
        "a": [399.0, 1.5] if late == "1.5" else ["399", late],
        "b": [None, 400],
    }


def test_text_in_a_declared_csv_column_suggests_null_values(tmp_path, context, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    path = write(tmp_path, "csv", [{"a": n if n < 400 else "NA"} for n in range(500)])
    with pytest.raises(SchemaError, match=r"null_values=\['NA'\]"):
        ingest(path, types={"a": "int64"})


def test_a_json_field_that_only_later_lines_have_is_named_and_can_be_declared(tmp_path, context, ingest, monkeypatch):
    monkeypatch.setattr(source_file, "BLOCK_BYTES", 1000)
    path = write(tmp_path, "jsonl", [{"a": n} if n < 400 else {"a": n, "late": "x"} for n in range(500)])
    with pytest.raises(SchemaError, match="the field 'late'"):
        ingest(path)
    assert table(context, ingest(path, types={"late": "string"}))["late"].null_count == 400
    assert table(context, ingest(path, name="b", columns=["a"])).schema.names == ["a"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_file_whose_schema_differs_is_named(form, tmp_path, context, ingest):
    write(tmp_path, form, [{"n": 1, "s": "a"}], "a")
    write(tmp_path, form, [{"n": "x", "s": "b"}], "b")
    if form == "csv":
        # The types are inferred from the values of all files.
        assert table(context, ingest(tmp_path / f"*.{form}"))["n"].to_pylist() == ["1", "x"]
    else:
        with pytest.raises(SchemaError, match=r"('n'|types=)"):
            ingest(tmp_path / f"*.{form}")
    write(tmp_path, form, [{"s": "b", "n": 2}], "b")
    assert table(context, ingest(tmp_path / f"*.{form}"))["n"].to_pylist() == [1, 2]
    write(tmp_path, form, [{"s": "b", "other": 2}], "b")
    with pytest.raises(SchemaError, match=f"b.{form}"):
        ingest(tmp_path / f"*.{form}")


class TestBetweenWindows:
    """The schema of a window must match that of the neighbouring window, unless the user declares otherwise."""

    @pytest.fixture(autouse=True)
    def _march(self, tmp_path, ingest):
        write(tmp_path, "csv", [{"n": 1, "s": "a", "e": ""}], "march")
        ingest(tmp_path / "march.csv", window="2013-03")
        self.folder = tmp_path

    def april(self, row):
        return write(self.folder, "csv", [row], "april")

    def test_a_missing_column_is_named(self, ingest):
        path = self.april({"n": 1})
        with pytest.raises(SchemaError, match=r"2013-03 has the columns 's', 'e', .* columns=\['n'\]"):
            ingest(path, window="2013-04")
        assert ingest(path, window="2013-04", columns=["n"]).dataset.rows == 1

    def test_a_type_that_changed_is_named(self, ingest, context):
        path = self.april({"n": 1.5, "s": "a", "e": ""})
        with pytest.raises(SchemaError, match=r"'n' is int64 in the window 2013-03 .*'1.5'"):
            ingest(path, window="2013-04")
        assert ingest(path, window="2013-04", types={"n": "float64"}).dataset.rows == 1

    def test_a_type_that_changed_in_parquet_is_named(self, ingest):
        pq.write_table(pa.table({"n": ["1"], "s": ["a"], "e": ["x"]}), self.folder / "april.parquet")
        with pytest.raises(SchemaError, match=r"'n' is string, .* int64.*types=\{'n': 'string'\}"):
            ingest(self.folder / "april.parquet", window="2013-04")

    def test_guessed_types_follow_the_other_window(self, ingest, context):
        path = self.april({"n": "", "s": 7, "e": ""})
        found = table(context, ingest(path, window="2013-04"))
        assert found.to_pylist() == [{"n": None, "s": "7", "e": None}]
        assert str(found.schema.field("n").type) == "int64"

    def test_a_column_that_was_empty_may_get_a_type(self, ingest, context):
        found = table(context, ingest(self.april({"n": 1, "s": "a", "e": 2.5}), window="2013-04"))
        assert found["e"].to_pylist() == [2.5]

    def test_a_new_column_is_kept_and_logged(self, ingest, context, caplog):
        caplog.set_level("INFO")
        found = table(context, ingest(self.april({"n": 1, "s": "a", "e": "", "new": 1}), window="2013-04"))
        assert "new" in found.schema.names
        assert "The column 'new' did not exist in the window 2013-03" in caplog.text

    def test_a_window_is_not_compared_with_itself(self, ingest):
        assert ingest(self.april({"z": 1}), window="2013-03").dataset.rows == 1

    def test_an_older_window_is_compared_with_the_next(self, ingest):
        with pytest.raises(SchemaError, match="2013-03"):
            ingest(self.april({"n": 1}), window="2013-01")


def test_the_error_for_an_empty_window_names_it_and_leaves_nothing(tmp_path, context, ingest):
    path = write(tmp_path, "csv")
    with pytest.raises(EmptyWindowError, match="2014-01"):
        ingest(path, window="2014-01", time_column="t")
    assert store_is_empty(context)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "header.csv").write_text("a,b\n")
    for name in ("empty.csv", "empty.jsonl", "header.csv"):
        with pytest.raises(EmptyWindowError, match=name):
            ingest(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("a.csv", b"a,b\n1,2\n3\n", MalformedFileError, "a.csv .*line 3: 1"),
        ("a.csv", b"a,a\n1,2\n", SchemaError, "a.csv has the column 'a' more than once"),
        ("a.csv", b"a\n\xff\xfe\n", SchemaError, "'a' of .*a.csv .* not UTF-8"),
        ("a.jsonl", b'{"a": 1}\nnot json\n', MalformedFileError, "a.jsonl .*line 2"),
        ("a.parquet", b"PAR1 but not really", MalformedFileError, "a.parquet"),
        ("a.csv.gz", b"not gzip", MalformedFileError, "a.csv.gz .*Not a gzipped file"),
        (
            "a.csv.gz",
            gzip.compress(b"a\n" + b"1\n" * 9999, mtime=0)[:-20],
            MalformedFileError,
            "a.csv.gz .*end-of-stream",
        ),
        ("a.dat", b"", SpecError, "a.dat .*`format`"),
        ("a.xlsx", b"", SpecError, "a.xlsx is a spreadsheet.*Save the sheet as CSV"),
        ("a.csv", b"PK\x03\x04", MalformedFileError, "Excel workbook.*Save a workbook as CSV"),
    ],
)
def test_an_unreadable_file_is_named_and_leaves_nothing(name, content, error, message, tmp_path, context, ingest):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        ingest(tmp_path / name)
    assert store_is_empty(context)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"files": ["{0}/none.csv"]}, SourceError, "none.csv"),
        ({"files": ["{0}/none*.csv"]}, SourceError, r"none\*.csv"),
        ({"files": ["nope://user:geheim@x/a.csv"]}, SpecError, "nope://x/a.csv"),
        ({"files": ["{0}/rows.csv"], "columns": ["n", "nope"]}, SchemaError, "has no column 'nope'.* t, n, x, s"),
        ({"files": ["{0}/rows.csv"], "types": {"nope": "int64"}}, SchemaError, "'nope'.* t, n, x, s"),
        ({"files": ["{0}/rows.csv"], "types": {"n": "number"}}, SpecError, "'number'"),
        ({"files": ["{0}/rows.csv"], "types": {"s": "int64"}}, SchemaError, "'s' is declared int64 .*'a'"),
        ({"files": ["{0}/rows.csv"], "time_column": "z", "window": "2013-04"}, SchemaError, "has no column 'z'"),
        ({"files": ["{0}/rows.csv"], "time_column": "t"}, SpecError, "`time_column`.*`window`"),
        ({"files": []}, SpecError, "`sql`.*`files`"),
        ({"files": ["{0}/rows.csv"], "window": "April"}, SpecError, "window: 'April' is not a"),
        ({"files": ["{0}/rows.csv"], "format": "xml"}, SpecError, "format: "),
    ],
)
def test_mistakes_in_the_spec_are_named_and_leave_nothing(options, error, message, tmp_path, context, ingest):
    write(tmp_path, "csv")
    files = [url.replace("{0}", str(tmp_path)) for url in options.pop("files")]
    with pytest.raises(error, match=message) as raised:
        ingest(files, **options)
    assert "geheim" not in str(raised.value)
    assert store_is_empty(context)
