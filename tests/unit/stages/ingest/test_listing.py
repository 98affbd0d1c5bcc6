"""Which files a URL names: archives, folders of Spark and Hive, and names with brackets."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.errors import MalformedFileError, SchemaError, SourceError, SpecError
from airflow_mlops.data.store import ArtifactStore


@pytest.fixture
def zipped(tmp_path):
    def zipped(name, members):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return str(tmp_path / name)

    return zipped


def read(ingestion):
    return [file["file"].rpartition("/")[2] for file in ingestion.manifest().source["read"]]


class TestArchives:
    def test_all_members_are_read_in_the_order_of_their_names(self, zipped, ingestion):
        members = {"b.csv": "a\n2\n", "x/": "", "x/c.csv": "a\n3\n", "a.csv": "a\n1\n"}
        path = zipped("all.zip", members)
        assert ingestion.table(path)["a"].to_pylist() == [1, 2, 3]
        found = ingestion.manifest().source["read"]
        assert [file["file"] for file in found] == [
            f"zip://{member}::file://{path}" for member in ("a.csv", "b.csv", "x/c.csv")
        ]
        assert [file["sha256"] for file in found] == [
            hashlib.sha256(members[member].encode()).hexdigest() for member in ("a.csv", "b.csv", "x/c.csv")
        ]

    def test_files_that_programs_add_are_not_data(self, zipped, ingestion):
        members = {"__MACOSX/._a.csv": "\0\5\x16\7", ".DS_Store": "x", "__MACOSX/": "", "a.csv": "a\n1\n"}
        path = zipped("a.csv.zip", members)
        assert ingestion.rows(path) == [{"a": 1}]
        assert read(ingestion) == ["a.csv.zip"]

    def test_the_format_is_that_of_the_members(self, zipped, ingestion):
        assert ingestion.rows(zipped("json.zip", {"b.json": '[{"a": 2}]'}), name="a") == [{"a": 2}]
        members = {"a.csv": "a\n1\n", "b.csv": "a\n2\n", "c.CSV.gz": gzip.compress(b"a\n3\n")}
        members |= {"d.csv.bz2": bz2.compress(b"a\n4\n"), "e.csv.xz": lzma.compress(b"a\n5\n")}
        assert sorted(ingestion.table(zipped("all.zip", members))["a"].to_pylist()) == [1, 2, 3, 4, 5]
        assert ingestion.rows(zipped("b.csv.zip", {"data.txt": "a\n1\n"}), name="b") == [{"a": 1}]

    def test_parquet_members_are_read(self, zipped, ingestion, tmp_path):
        pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
        path = zipped("p.zip", {"a.parquet": (tmp_path / "a.parquet").read_bytes()})
        assert ingestion.table(path)["a"].to_pylist() == [1, 2]

    @pytest.mark.parametrize(
        ("members", "error", "fact"),
        [
            ({"a.txt": "a\n1\n", "README": "hello"}, SpecError, "zip://README::"),
            ({"a.csv": "a\n1\n", "b.csv": "b\n1\n"}, SchemaError, "zip://b.csv::"),
            ({"a.zip": "x"}, MalformedFileError, "'a.zip'"),
            ({"__MACOSX/._a.csv": "x"}, MalformedFileError, "no files"),
        ],
    )
    def test_other_members_are_an_error_that_names_them(self, members, error, fact, zipped, ingestion):
        with pytest.raises(error, match=fact):
            ingestion.run(zipped("all.zip", members))

    def test_damaged_and_encrypted_archives_are_final_errors(self, zipped, ingestion, tmp_path):
        path = zipped("a.zip", {"a.csv": "a\n" + "1\n" * 1000})
        content = bytearray((tmp_path / "a.zip").read_bytes())
        damaged, encrypted = bytearray(content), bytearray(content)
        damaged[60] ^= 0xFF
        central = content.index(b"PK\1\2")
        nameless, before = bytearray(content), bytearray(content)
        nameless[central + 28], nameless[central + 30] = 0, 5
        before[content.index(b"PK\5\6") + 16] ^= 0xFF
        encrypted[6] |= 1
        encrypted[central + 8] |= 1
        for change in (damaged, encrypted, nameless, before, content[:-30], b"PK\3\4"):
            (tmp_path / "a.zip").write_bytes(change)
            with pytest.raises(MalformedFileError, match=r"a\.zip"):
                ingestion.run(path)
            (tmp_path / "copy").mkdir(exist_ok=True)
            (tmp_path / "copy" / "a.zip").write_bytes(change)
            with pytest.raises(MalformedFileError):
                ingestion.run(f"zip://a.csv::file://{tmp_path}/copy/a.zip")


class TestFolders:
    def test_the_output_of_spark_is_read(self, written, ingestion, tmp_path):
        written("out/_SUCCESS", "")
        written("out/.part-0.csv.crc", "x")
        written("out/._SUCCESS.crc", "x")
        written("out/part-1.csv", "a\n2\n")
        written("out/part-0.csv", "a\n1\n")
        written("out/part-2.csv", "")
        for url in ("out", "out/", "out/*", "out/**"):
            assert ingestion.table(tmp_path / url if url[-1] != "/" else f"{tmp_path}/out/")["a"].to_pylist() == [1, 2]
            assert read(ingestion) == ["part-0.csv", "part-1.csv", "part-2.csv"]

    def test_a_hidden_file_is_read_if_it_is_named(self, written, ingestion, tmp_path):
        written("_a.csv", "a\n1\n")
        written("b.csv", "a\n2\n")
        assert ingestion.rows(tmp_path / "*.csv") == [{"a": 2}]
        assert ingestion.rows(tmp_path / "_a.csv", name="b") == [{"a": 1}]
        assert ingestion.rows(tmp_path / "_*.csv", name="c") == [{"a": 1}]

    def test_other_files_beside_data_are_ignored_and_named(self, written, zipped, ingestion, tmp_path):
        others = {"README.txt": "hello", "report.xlsx": "x", "Thumbs.db": "x", "desktop.ini": "x", ".DS_Store": "x"}
        for name, content in {"a.csv": "a\n1\n", "b.tsv": "a\n2\n", **others}.items():
            written(f"out/{name}", content)
        archive = zipped("out.zip", {"a.csv": "a\n1\n", "b.tsv": "a\n2\n", **others})
        for url in (tmp_path / "out", tmp_path / "out" / "*", archive):
            assert ingestion.table(url)["a"].to_pylist() == [1, 2]
            (note,) = ingestion.result.notes
            assert note.startswith("Ignored 2 files")
            assert all(name in note for name in ("README.txt", "report.xlsx"))
            assert len(ingestion.manifest().source["ignored"]) == 2

    def test_a_format_has_its_own_suffixes(self, written, ingestion, tmp_path):
        written("out/a.csv", "a\n1\n")
        written("out/b.json", '{"a": 2}')
        written("out/c.dat", "a\n3\n")
        assert ingestion.table(tmp_path / "out", format="csv")["a"].to_pylist() == [1]
        assert "2 files without a suffix of the format csv" in ingestion.result.notes[0]
        assert ingestion.table(tmp_path / "out" / "*.dat", name="b", format="csv")["a"].to_pylist() == [3]
        assert ingestion.result.notes == []
        both = [tmp_path / "out" / "a.csv", tmp_path / "out" / "c.dat"]
        assert ingestion.table(both, name="c", format="csv")["a"].to_pylist() == [1, 3]

    def test_files_without_a_suffix_are_data_of_the_format(self, written, ingestion, tmp_path):
        written("out/part-0", "a\n1\n")
        written("out/Thumbs.db", "x")
        assert ingestion.table(tmp_path / "out", format="csv")["a"].to_pylist() == [1]
        with pytest.raises(SpecError, match="`format`"):
            ingestion.run(tmp_path / "out", name="b")

    def test_a_folder_that_is_being_written_is_tried_again(self, written, ingestion, tmp_path):
        written("out/_temporary/0/part-0.csv", "a\n1\n")
        with pytest.raises(SourceError, match="_temporary") as raised:
            ingestion.run(tmp_path / "out")
        assert raised.value.retryable

    @pytest.mark.parametrize("file", ["_delta_log/0.json", ".hoodie/x", "metadata/v1.metadata.json"])
    def test_the_files_of_a_table_are_not_its_rows(self, file, written, ingestion, tmp_path):
        written(f"table/{file}", "{}")
        written("table/a.csv", "a\n1\n")
        with pytest.raises(SpecError, match="table"):
            ingestion.run(tmp_path / "table")

    def test_an_empty_folder_is_named(self, ingestion, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(SourceError, match="empty"):
            ingestion.run(tmp_path / "empty")

    def test_a_file_that_two_patterns_match_is_an_error(self, written, ingestion, tmp_path):
        written("a.csv", "a\n1\n")
        with pytest.raises(SpecError, match=r"a\.csv twice"):
            ingestion.run([tmp_path / "a.csv", tmp_path / "*.csv"])


class TestPartitions:
    @pytest.fixture(autouse=True)
    def _hive(self, tmp_path):
        self.root = tmp_path / "lake"
        for year, month, n in (("2023", "12", 1), ("2024", "01", 2), ("2024", "__HIVE_DEFAULT_PARTITION__", 3)):
            folder = self.root / f"year={year}" / f"month={month}" / "shop=a%3Ab"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"n": [n]}), folder / "part.parquet")

    @pytest.mark.parametrize("url", ["", "/**/*.parquet", "/year=*", "/year=*/month=*/*/part.parquet"])
    def test_the_names_of_folders_are_columns(self, url, ingestion):
        assert ingestion.rows(f"{self.root}{url}") == [
            {"n": 1, "year": 2023, "month": "12", "shop": "a:b"},
            {"n": 2, "year": 2024, "month": "01", "shop": "a:b"},
            {"n": 3, "year": 2024, "month": None, "shop": "a:b"},
        ]

    def test_they_can_be_selected_and_declared(self, ingestion):
        assert ingestion.rows(self.root, columns=["year"]) == [{"year": 2023}, {"year": 2024}, {"year": 2024}]
        found = ingestion.table(self.root, name="b", columns=["month", "n"], types={"month": "int64"})
        assert found.to_pydict() == {"month": [12, 1, None], "n": [1, 2, 3]}
        with pytest.raises(SchemaError, match=r"'day'.* n, year, month, shop"):
            ingestion.run(self.root, name="c", columns=["day"])

    def test_they_can_be_the_time_of_the_rows(self, written, ingestion, tmp_path):
        for day in ("2024-03-05", "2024-03-06"):
            written(f"days/dt={day}/a.csv", f"a\n{day[-1]}\n")
        found = ingestion.rows(tmp_path / "days", time_column="dt", window="2024-03-06")
        assert found == [{"a": 6, "dt": "2024-03-06"}]

    def test_a_column_of_the_file_is_kept(self, written, ingestion, tmp_path):
        written("own/a=1/x.csv", "a\n7\n")
        assert ingestion.rows(tmp_path / "own") == [{"a": 7}]

    def test_folders_must_have_the_same_names(self, written, ingestion, tmp_path):
        written("mixed/a=1/x.csv", "n\n7\n")
        written("mixed/b=1/x.csv", "n\n7\n")
        with pytest.raises(SchemaError, match="'b' is new"):
            ingestion.run(tmp_path / "mixed")
        written("twice/a=1/a=2/x.csv", "n\n7\n")
        with pytest.raises(SchemaError, match="'a' twice"):
            ingestion.run(tmp_path / "twice")


class TestOtherFileSystems:
    def test_folders_of_an_object_store_are_read(self, ingestion, tmp_path):
        store = ArtifactStore(f"memory://{tmp_path}/lake")
        for name in ("_SUCCESS", "year=2023/a.csv", "year=2024/a.csv", "year=2024/.a.csv.crc"):
            store.write_bytes(name, b"n\n1\n")
        expected = [{"n": 1, "year": 2023}, {"n": 1, "year": 2024}]
        for url in ("lake", "lake/", "lake/*/*.csv", "lake/year=*"):
            assert ingestion.rows(f"memory://{tmp_path}/{url}") == expected

    def test_the_query_of_an_http_url_is_neither_a_pattern_nor_a_partition(self, written, ingestion, tmp_path):
        written("year=2024/a.csv", "n\n1\n")
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/year=2024/a.csv?sig=a/b=c"
            assert ingestion.rows(url, format="csv") == [{"n": 1, "year": 2024}]
            assert read(ingestion) == ["a.csv"]
            with pytest.raises(SourceError) as raised:
                ingestion.run(url.replace("a.csv", "none.csv"), format="csv", name="b")
            server.shutdown()
        assert raised.value.retryable
        assert "sig" not in str(raised.value)


class TestNames:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("d[1]/a[0].csv", [1]),
            ("d[1]/*.csv", [1, 2]),
            ("d[1]/[ab]*.csv", [1, 2]),
            ("d[1]", [1, 2]),
            ("*/b?.csv", [2]),
        ],
    )
    def test_brackets_and_question_marks_may_be_ordinary_characters(self, url, expected, written, ingestion, tmp_path):
        written("d[1]/a[0].csv", "a\n1\n")
        written("d[1]/b?.csv", "a\n2\n")
        assert ingestion.table(tmp_path / url)["a"].to_pylist() == expected

    @pytest.mark.parametrize("url", ["d[1]/none*.csv", "none[1]/a.csv", "none?.csv", "none.zip"])
    def test_a_name_that_does_not_exist_is_an_error(self, url, written, ingestion, tmp_path):
        written("d[1]/a.csv", "a\n1\n")
        with pytest.raises(SourceError, match="none"):
            ingestion.run(tmp_path / url)

    def test_suffixes_may_be_in_capitals(self, written, ingestion):
        assert ingestion.rows(written("DATA.CSV", "a\n1\n")) == [{"a": 1}]


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressions_that_arrow_knows_are_read(codec, written, ingestion):
    suffix = {"zstd": "zst", "lz4": "lz4"}[codec]
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(b"a\n1\n2\n")
    content = sink.getvalue().to_pybytes()
    assert ingestion.rows(written(f"a.csv.{suffix}", content)) == [{"a": 1}, {"a": 2}]
    for damaged in (content[:-5], b"a\n1\n"):
        with pytest.raises(MalformedFileError, match=suffix):
            ingestion.run(written(f"a.csv.{suffix}", damaged))
