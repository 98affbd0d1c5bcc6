"""Ingestion with the cache: unchanged files give the same dataset without being parsed, and every change is noticed."""

from __future__ import annotations

import gzip
import os
import threading
import zipfile
import zoneinfo
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, find_datasets, mark_purged, open_dataset, snapshot
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages import cache, runner
from airflow_mlops.stages.ingest import step
from tests.support.cached import inputs_key, run_step

ROWS = "at,n,s\n2024-01-05T00:00:00Z,1,a\n2024-01-20T00:00:00Z,2,NA\n,3,c\n2024-02-03T00:00:00Z,4,d\n"
OTHER = ROWS.replace(",1,a", ",9,a")


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source" / "rows.csv"
    file.parent.mkdir()
    file.write_text(ROWS)
    return file


@pytest.fixture
def spec(source):
    return {"name": "raw", "files": [str(source)], "time_column": "at", "window": "2024-01"}


@pytest.fixture
def parsed(monkeypatch):
    """How often the step has run."""
    runs = []
    monkeypatch.setattr(step, "open_source", lambda *args, find=step.open_source: runs.append(1) or find(*args))
    return runs


def rewrite(file, content):
    """Change a file, but neither its size nor its modification time."""
    before = file.stat()
    file.write_text(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def current(store, window="2024-01"):
    (found,) = find_datasets(store, "raw", Window.model_validate(window))
    return found.manifest.id


def write_csv(folder):
    (folder / "rows.csv").write_text(ROWS)
    return "rows.csv"


def write_folder(folder):
    for name, content in {"a.csv": ROWS, "b.csv": ROWS, "readme.md": "text"}.items():
        (folder / "year=2024").mkdir(exist_ok=True)
        (folder / "year=2024" / name).write_text(content)
    return ""


def write_gzip(folder):
    (folder / "rows.csv.gz").write_bytes(gzip.compress(ROWS.encode()))
    return "rows.csv.gz"


def write_zip(folder):
    with zipfile.ZipFile(folder / "rows.zip", "w") as archive:
        archive.writestr("a.csv", ROWS)
        archive.writestr("b.csv", ROWS)
    return "rows.zip"


def write_parquet(folder):
    pq.write_table(pa.table({"at": ["2024-01-05", None], "n": [1, 2], "s": ["a", "b"]}), folder / "rows.parquet")
    return "rows.parquet"


@pytest.mark.parametrize("write", [write_csv, write_folder, write_gzip, write_zip, write_parquet])
def test_a_cached_result_is_the_computed_one(write, store, tmp_path, parsed):
    folder = tmp_path / "files"
    folder.mkdir()
    spec = {"name": "raw", "files": [str(folder / write(folder))], "time_column": "at", "window": "2024-01"}
    first = run_step(store, "ingest", "one", **spec)
    cached = run_step(store, "ingest", "two", **spec)
    assert (len(parsed), first["cached"], cached["cached"]["run_id"]) == (1, None, "one")
    computed = run_step(store, "ingest", "three", cache=None, **spec)
    for name in ("dataset", "unchanged", "notes"):
        assert cached[name] == computed[name]
    assert computed["notes"]


def test_the_files_of_an_archive_in_a_url_are_identified_by_the_archive(store, tmp_path, parsed):
    archive = tmp_path / write_zip(tmp_path)
    spec = {"name": "raw", "files": [f"zip://a.csv::{archive}"]}
    run_step(store, "ingest", "one", **spec)
    assert run_step(store, "ingest", "two", **spec)["cached"]
    assert len(parsed) == 1
    with zipfile.ZipFile(archive, "w") as changed:
        changed.writestr("a.csv", OTHER)
    assert run_step(store, "ingest", "three", **spec)["cached"] is None


CHANGES = {
    "window": {"window": "2024-02"},
    "columns": {"columns": ["at", "n"]},
    "types": {"types": {"n": "float64"}},
    "null values": {"null_values": ["NA"]},
    "csv options": {"csv": {"true_values": ["yes"]}},
    "description": {"description": "Rows."},
    "owner": {"owner": "someone"},
    "name": {"name": "others"},
    "time column": {"time_column": None},
    "format": {"format": "csv"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_option_is_an_input(change, store, spec):
    assert inputs_key(store, "ingest", spec) == inputs_key(store, "ingest", spec)
    assert inputs_key(store, "ingest", {**spec, **change}) not in (None, inputs_key(store, "ingest", spec))


def test_names_and_number_of_the_files_are_inputs(store, spec, source):
    spec = {**spec, "files": [str(source.parent)]}
    keys = [inputs_key(store, "ingest", spec)]
    for name in ("more.csv", "notes.txt"):
        (source.parent / name).write_text(ROWS)
        keys.append(inputs_key(store, "ingest", spec))
    # The name of a folder is a value of a column.
    (source.parent / "more.csv").rename(source.parent / "last.csv")
    keys.append(inputs_key(store, "ingest", spec))
    keys.append(
        inputs_key(store, "ingest", {**spec, "files": [f"{source.parent}/{name}.csv" for name in ("last", "rows")]})
    )
    keys.append(
        inputs_key(store, "ingest", {**spec, "files": [f"{source.parent}/{name}.csv" for name in ("rows", "last")]})
    )
    assert len({*keys, None}) == len(keys) + 1


def test_a_change_that_keeps_size_and_time_is_noticed_and_an_older_content_returns_its_own_dataset(store, spec, source):
    first = run_step(store, "ingest", "one", **spec)
    rewrite(source, OTHER)
    second = run_step(store, "ingest", "two", **spec)
    assert second["cached"] is None
    assert current(store) == second["dataset"]["id"] != first["dataset"]["id"]
    source.write_text(ROWS)
    third = run_step(store, "ingest", "three", **spec)
    assert (third["cached"]["run_id"], third["dataset"]) == ("one", first["dataset"])
    assert current(store) == first["dataset"]["id"]


def test_a_file_with_the_same_content_and_another_time_is_unchanged(store, spec, source):
    run_step(store, "ingest", "one", **spec)
    os.utime(source, (0, 0))
    assert run_step(store, "ingest", "two", **spec)["cached"]


def test_the_columns_of_the_neighbouring_window_are_an_input(store, spec):
    alone = inputs_key(store, "ingest", spec)
    run_step(store, "ingest", "one", **{**spec, "window": "2024-02"})
    beside = inputs_key(store, "ingest", spec)
    with DatasetWriter(store, "raw") as writer:
        writer.write(pa.table({"at": ["2024-02-01"], "n": [0.5], "s": ["a"]}))
        writer.commit(window=Window.model_validate("2024-02"))
    assert len({alone, beside, inputs_key(store, "ingest", spec)}) == 3


def test_the_rules_of_a_declared_time_zone_are_an_input(store, spec, tmp_path, monkeypatch):
    spec = {**spec, "types": {"at": "timestamp[us, tz=Europe/Berlin]"}}
    (tmp_path / "Europe").mkdir()
    monkeypatch.setattr(zoneinfo, "TZPATH", (str(tmp_path),))
    keys = set()
    for rules in ("old", "new"):
        (tmp_path / "Europe" / "Berlin").write_text(rules)
        keys.add(inputs_key(store, "ingest", spec))
    assert len(keys) == 2


def test_a_cached_dataset_replaces_overlapping_windows_that_were_written_later(store, spec, source):
    source.write_text(ROWS + "2023-12-05T00:00:00Z,5,e\n")
    run_step(store, "ingest", "one", task_id="neighbour", **{**spec, "window": "2023-12"})
    month = run_step(store, "ingest", "one", **spec)["dataset"]["id"]
    day = Window.model_validate("2024-01-05")
    run_step(store, "ingest", "one", task_id="day", **{**spec, "window": "2024-01-05"})
    assert find_datasets(store, "raw", day)[0].manifest.id != month
    assert run_step(store, "ingest", "two", **spec)["cached"]
    assert find_datasets(store, "raw", day)[0].manifest.id == month


def test_a_cached_snapshot_becomes_the_newest_one(store, source):
    spec = {"name": "raw", "files": [str(source)]}
    first = run_step(store, "ingest", "one", **spec)
    source.write_text(OTHER)
    run_step(store, "ingest", "two", **spec)
    source.write_text(ROWS)
    assert run_step(store, "ingest", "three", **spec)["cached"]
    assert snapshot(store, "raw").manifest.id == first["dataset"]["id"]


def purge(store, dataset):
    mark_purged(store, dataset.manifest, datetime.now(timezone.utc))


def delete_file(store, dataset):
    store.delete(dataset.manifest.files[0].path)


def change_file(store, dataset):
    store.write_bytes(dataset.manifest.files[0].path, b"changed")


@pytest.mark.parametrize("damage", [purge, delete_file, change_file])
def test_a_deleted_or_changed_dataset_is_computed_again(damage, store, spec):
    first = run_step(store, "ingest", "one", **spec)
    ref = DatasetRef.model_validate(first["dataset"])
    damage(store, open_dataset(store, ref))
    second = run_step(store, "ingest", "two", **spec)
    assert (second["cached"], second["unchanged"], second["dataset"]) == (None, False, first["dataset"])
    assert open_dataset(store, ref).table().num_rows == 2
    assert run_step(store, "ingest", "three", **spec)["cached"]["run_id"] == "two"


class KilledError(BaseException):
    pass


def killed(*_, **__):
    raise KilledError


@pytest.mark.parametrize(
    ("module", "name"), [(step.DatasetWriter, "commit"), (runner, "write_result"), (cache, "write_cached")]
)
def test_a_killed_run_leaves_nothing_in_the_cache(module, name, store, spec, monkeypatch):
    with monkeypatch.context() as killing:
        killing.setattr(module, name, killed)
        with pytest.raises(KilledError):
            run_step(store, "ingest", "one", **spec)
    assert run_step(store, "ingest", "two", **spec)["cached"] is None
    assert run_step(store, "ingest", "three", **spec)["cached"]["run_id"] == "two"


def test_a_run_that_was_killed_before_the_dataset_was_current_is_repeated(store, spec, source, monkeypatch):
    first = run_step(store, "ingest", "one", **spec)
    source.write_text(OTHER)
    run_step(store, "ingest", "two", **spec)
    source.write_text(ROWS)
    with monkeypatch.context() as killing:
        killing.setattr(cache, "make_current", killed)
        with pytest.raises(KilledError):
            run_step(store, "ingest", "three", **spec)
    assert current(store) != first["dataset"]["id"]
    # The retry has the same key.
    assert run_step(store, "ingest", "three", **spec)["cached"]
    assert current(store) == first["dataset"]["id"]


def test_a_file_that_is_written_again_while_it_is_read_is_not_cached(store, spec, source, monkeypatch):
    def half(*args, write=step._write):
        rows = write(*args)
        source.write_text(ROWS)
        return rows

    def open_half(*args, find=step.open_source):
        source.write_text("\n".join(ROWS.splitlines()[:2]))
        return find(*args)

    with monkeypatch.context() as writing:
        # An export writes the same content again, and the step reads the first half.
        writing.setattr(step, "open_source", open_half)
        writing.setattr(step, "_write", half)
        assert run_step(store, "ingest", "one", **spec)["dataset"]["rows"] == 1
    assert source.read_text() == ROWS
    second = run_step(store, "ingest", "two", **spec)
    assert (second["cached"], second["dataset"]["rows"]) == (None, 2)


def test_a_query_is_computed_and_the_log_says_why(store, caplog):
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    assert inputs_key(store, "ingest", {"name": "raw", "conn_id": "db", "sql": "SELECT 1 AS n"}) is None
    assert "because only running a query shows whether its rows have changed" in caplog.text


@pytest.fixture
def website():
    """The address of a web server, and the headers that it sends."""
    headers: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            for name, value in {"Content-Length": str(len(ROWS)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(ROWS.encode())

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/rows.csv", headers
        server.shutdown()


def test_a_signed_url_is_cached_if_the_server_says_when_the_file_changed(store, website, caplog):
    pytest.importorskip("aiohttp")
    caplog.set_level("INFO", logger="airflow_mlops.stages")
    url, headers = website

    def ingested(run_id):
        files = [f"{url}?signature={run_id}"]
        return run_step(store, "ingest", run_id, name="raw", files=files, format="csv")["cached"]

    assert [ingested(run_id) for run_id in ("one", "two")] == [None, None]
    assert f"the server of {url} sends neither an ETag" in caplog.text
    headers["ETag"] = '"1"'
    assert ingested("three") is None
    assert ingested("four")["run_id"] == "three"
