import errno
import io
import os
import shutil
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.contract import FeatureColumn, ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetSelection, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.predictions.log import PredictionLog, require_unserved
from airflow_mlops.data.selection import select
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.overview import index
from airflow_mlops.serving.layout import online_folder, window_at
from airflow_mlops.serving.log import mark
from airflow_mlops.serving.log import spool as log
from airflow_mlops.serving.log.claim import claim
from airflow_mlops.serving.log.mark import require_mark
from airflow_mlops.serving.log.merge import merge
from airflow_mlops.serving.log.uptime import State
from airflow_mlops.serving.metrics import Metrics
from airflow_mlops.serving.rows.request import InputColumns
from airflow_mlops.serving.versions.loaded import Served

NOW = 1_700_000_000.0


class NoModel:
    """Replaces a loaded model. The log reads only its contract and engine."""

    engine = "none"
    contract = ModelContract(
        task="regression",
        label="y",
        features=[FeatureColumn(name="a", kind="number")],
        metrics={"rmse": 1.0, "r2": 0.5, "pinball_a0.9": 0.2},
        dataset_name="d",
        dataset_id="i",
    )


def answer(number: int, at: float = NOW, version: int = 1) -> log.Answer:
    ref = ModelVersionRef(model="m", version=version, run_id="")
    served = Served(ref, NoModel(), InputColumns(NoModel.contract))
    found = Predictions(np.array([1.0, 2.0]), np.array([1.0, 2.0]), None)
    return log.Answer(served, served.columns.rows([{"a": number}, {"a": None}]), found, f"id-{number}", at, 3.0)


def spool(store, folder) -> log.PredictionSpool:
    return log.PredictionSpool(store, "m", folder, "hour", Metrics())


def logged(store) -> list[tuple[str, int]]:
    rows = [row for batch in PredictionLog(store, "m").batches() for row in batch.to_pylist()]
    return sorted((row["request_id"], row["request_row"]) for row in rows)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return ArtifactStore((tmp_path / "store").as_uri())


def later(at: float = NOW):
    return window_at(at, "hour").end + timedelta(hours=1)


def test_windows_and_versions_have_datasets_of_their_own(store, tmp_path):
    found = spool(store, tmp_path / "spool")
    for number, (at, version) in enumerate([(NOW, 1), (NOW, 2), (NOW + 3600, 2), (NOW, 1)]):
        found.add(answer(number, at, version))
    found.start()
    found.stop()
    entries = PredictionLog(store, "m").entries()
    assert [(entry.rows, entry.details["model_version"]) for entry in entries] == [(4, 1), (2, 2), (2, 2)]
    # `airflow mlops predictions` uses these details to find that the model predicts a quantile.
    assert all(entry.details["metrics"] == ["rmse", "pinball_a0.9"] for entry in entries)
    assert logged(store) == sorted((f"id-{number}", row) for number in range(4) for row in (0, 1))
    assert not list((tmp_path / "spool").iterdir())


def test_an_unavailable_store_loses_and_duplicates_no_rows(store, tmp_path):
    away = tmp_path / "store"
    away.rmdir()
    away.write_text("not a folder")
    first = spool(store, tmp_path / "spool")
    first.add(answer(1))
    first.start()
    first.stop()
    assert list((tmp_path / "spool").glob("*.arrows"))
    away.unlink()
    away.mkdir()
    second = spool(store, tmp_path / "spool")
    second.add(answer(2))
    second.start()
    second.stop()
    assert logged(store) == [("id-1", 0), ("id-1", 1), ("id-2", 0), ("id-2", 1)]


def test_predictions_are_not_written_to_another_store_than_before(store, tmp_path, caplog):
    """The folder of a file system that is not mounted is empty, and another one may be mounted in its place."""
    mounted, away, folder, new = (tmp_path / name for name in ("store", "away", "spool", "new"))
    new.mkdir()

    def run(number: int) -> int:
        made = log.PredictionSpool(store, "m", folder, "hour", Metrics(), claim=lambda: claim(folder, "m", store.url))
        made.add(answer(number))
        made.start()
        made.stop()
        made._claimed.close()
        return len(list(folder.glob("*.arrows")))

    assert run(1) == 0
    mounted.rename(away)
    mounted.mkdir()
    assert run(2) == 1
    assert list(mounted.iterdir()) == []
    assert "Predictions stay in the spool" in caplog.text
    # A new spool takes the id of its store.
    require_mark(store, "m", new)
    assert run(3) == 2
    (new / mark.FILE).unlink()
    shutil.rmtree(mounted)
    away.rename(mounted)
    assert run(4) == 0
    assert [request_id for request_id, row in logged(store) if not row] == ["id-1", "id-2", "id-3", "id-4"]
    require_mark(store, "m", new)
    assert (new / mark.FILE).read_text() == (folder / mark.FILE).read_text()
    # Another model may take the spool, and takes the id of its own store.
    claim(folder, "n", store.url).close()
    assert not (folder / mark.FILE).exists()


def test_rows_of_files_that_something_else_removed_are_counted_and_later_rows_are_logged(store, tmp_path):
    metrics, folder = Metrics(), tmp_path / "spool"
    found = log.PredictionSpool(store, "m", folder, "hour", metrics, claim=lambda: claim(folder, "m", store.url))

    def dropped() -> float:
        return metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total")

    # The first file is complete, the second is still open.
    found.add(answer(1))
    found._flush()
    found._close(0)
    found.add(answer(2))
    found._flush()
    shutil.rmtree(folder)
    found.add(answer(3))
    found._flush()
    found._close(0)
    found._upload()
    assert dropped() == 4
    # Another server with the same spool uploads a file.
    found.add(answer(4))
    found._flush()
    found._close(0)
    spool(store, folder)._upload()
    found._upload()
    assert dropped() == 4
    merge(store, "m", "m_predictions", later())
    assert logged(store) == [("id-3", 0), ("id-3", 1), ("id-4", 0), ("id-4", 1)]
    # The new folder belongs to the same model. If another model has taken the folder in the meantime, nothing is logged.
    with pytest.raises(SpecError, match="'m'"):
        claim(folder, "n", store.url)
    shutil.rmtree(folder)
    with claim(folder, "n", store.url):
        found.add(answer(5))
        found._flush()
    assert (dropped(), list(folder.glob("*.arrows"))) == (6, [])


def test_a_full_disk_loses_only_the_rows_that_do_not_fit_and_counts_them(store, tmp_path, monkeypatch):
    metrics, folder = Metrics(), tmp_path / "spool"
    found = log.PredictionSpool(store, "m", folder, "hour", metrics)
    opened = found._open

    def full(key, schema):
        if key[0] == 2:
            return opened(key, schema)
        # A write to this device fails when a buffer is flushed, including when the file is closed.
        file = Path("/dev/full").open("wb")  # noqa: SIM115
        return log._Segment(folder / "2023-11-14T22_v1-a.arrows", file, pa.ipc.new_stream(file, schema))

    monkeypatch.setattr(found, "_open", full)
    found.add(answer(1, version=1))
    found.add(answer(2, version=2))
    found.hear(State(answer(0).served, NOW))
    found._flush()
    assert metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total") == 2
    assert found.settled == 4
    assert found._uptime.served is not None
    found._close(0)
    found._upload()
    assert metrics.registry.get_sample_value("mlops_serve_log_dropped_rows_total") == 2
    merge(store, "m", "m_predictions", later())
    assert logged(store) == [("id-2", 0), ("id-2", 1)]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="time zones of a process need tzset")
def test_windows_are_those_of_utc_when_clocks_change(monkeypatch):
    """In Berlin, 2026-10-25T00:30Z and T01:30Z are both 02:30."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        at = [datetime(2026, 10, 25, hour, 30, tzinfo=timezone.utc).timestamp() for hour in (0, 1)]
        assert [window_at(moment, "hour").file_name for moment in at] == ["2026-10-25T00", "2026-10-25T01"]
        assert {window_at(moment, "day").file_name for moment in at} == {"2026-10-25"}
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_spool_belongs_to_one_model_and_one_store(store, tmp_path):
    folder, url = tmp_path / "spool", store.url
    first, second = claim(folder, "m", url), claim(folder, "m", f"{url}/")
    for model, other in (("n", url), ("m", "s3://bucket/mlops")):
        with pytest.raises(SpecError, match="'m'"):
            claim(folder, model, other)
    found = spool(store, folder)
    found.add(answer(1))
    found._flush()
    found._close(0)
    first.close()
    second.close()
    # Its predictions would be uploaded as those of the other model.
    with pytest.raises(SpecError, match="'m'"):
        claim(folder, "n", url)
    found._upload()
    with claim(folder, "n", url), pytest.raises(SpecError, match="'n'"):
        claim(folder, "m", url)


def test_the_lag_is_the_age_of_the_oldest_prediction_that_the_store_lacks(store, tmp_path):
    metrics = Metrics()
    found = log.PredictionSpool(store, "m", tmp_path / "spool", "hour", metrics)

    def lag() -> float:
        return metrics.registry.get_sample_value("mlops_serve_log_lag_seconds")

    now = time.time()
    # The file of these predictions is still open. The last row was written just now.
    for age in (30, 2):
        found.add(answer(age, now - age))
        found._flush()
    found._measure()
    assert lag() == pytest.approx(30, abs=5)
    found._close(0)
    found._measure()
    assert lag() == pytest.approx(30, abs=5)
    found._upload()
    found._measure()
    assert lag() == 0


def test_a_slow_store_does_not_keep_predictions_in_memory(store, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_UPLOAD_SECONDS", 0.0)
    monkeypatch.setattr(log, "_FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(log, "_WAITING_ROWS", 2)
    uploading, go_on = threading.Event(), threading.Event()
    create = store.create_exclusive

    def slow(key, content):
        uploading.set()
        assert go_on.wait(60)
        return create(key, content)

    monkeypatch.setattr(store, "create_exclusive", slow)
    found = spool(store, tmp_path / "spool")
    found.start()
    found.add(answer(1))
    assert uploading.wait(60)
    # The call waits until the thread that writes has taken the rows before, which are two.
    for number in (2, 3, 4):
        found.add(answer(number))
    assert found.settled >= 4
    go_on.set()
    found.stop()
    assert found.settled == 8
    assert len(logged(store)) == 8


def test_files_that_come_later_replace_the_dataset(store, tmp_path):
    for number in (1, 2):
        found = spool(store, tmp_path / "spool")
        found.add(answer(number))
        found.start()
        found.stop()
        assert len(PredictionLog(store, "m").entries()) == 1
    assert len(logged(store)) == 4
    assert merge(store, "m", "m_predictions", later()) == []


def test_an_open_window_is_not_merged_and_the_files_of_an_old_one_are_deleted(store, tmp_path):
    found = spool(store, tmp_path / "spool")
    found.add(answer(1, time.time()))
    found.start()
    found.stop()
    assert PredictionLog(store, "m").entries() == []
    end = window_at(time.time(), "hour").end
    assert len(merge(store, "m", "m_predictions", end + timedelta(hours=1))) == 1
    (known,) = index.of(store, "m")
    assert known.scoring is not None
    assert known.scoring.last.rows > 0
    assert store.find(online_folder("m"))
    merge(store, "m", "m_predictions", end + timedelta(days=3))
    assert not store.find(online_folder("m"))
    assert len(logged(store)) == 2


def test_a_file_that_comes_after_the_others_are_deleted_is_added(store, tmp_path):
    for number in (1, 2):
        found = spool(store, tmp_path / "spool")
        found.add(answer(number, time.time()))
        found.start()
        found.stop()
        end = window_at(time.time(), "hour").end
        for days in (1, 3):
            merge(store, "m", "m_predictions", end + timedelta(days=days))
        assert not store.find(online_folder("m"))
        assert len(logged(store)) == 2 * number


def test_a_torn_file_of_a_killed_server_gives_its_complete_batches(store, tmp_path):
    found = spool(store, tmp_path / "spool")
    for number in (1, 2):
        found.add(answer(number))
        found._flush()
    (segment,) = found._segments.values()
    content = segment.path.read_bytes()
    segment.file.close()
    segment.path.write_bytes(content[:-10])
    other = spool(store, tmp_path / "spool")
    other.start()
    other.stop()
    assert logged(store) == [("id-1", 0), ("id-1", 1)]


def written(store, folder, numbers, at: float = NOW) -> Path:
    """Write a file of the spool, as a killed server leaves it: one batch for each number."""
    found = spool(store, folder)
    for number in numbers:
        found.add(answer(number, at))
        found._flush()
    (segment,) = found._segments.values()
    segment.file.close()
    return segment.path


def uploaded(store, folder) -> log.PredictionSpool:
    found = spool(store, folder)
    found.start()
    found.stop()
    return found


def cut_batch(content: bytes) -> bytes:
    """Overwrite the description of the second batch. The messages are the schema and the batches."""
    starts = [place for place in range(0, len(content), 8) if content.startswith(log._MESSAGE, place)]
    return content[: starts[2] + 8] + b"\x7f" * 64 + content[starts[2] + 72 :]


@pytest.mark.parametrize(
    ("damage", "kept"), [(lambda content: b"garbage", []), (lambda content: b"x" * 10 + content, []), (cut_batch, [1])]
)
def test_a_damaged_file_is_kept_and_the_others_are_uploaded(store, tmp_path, caplog, damage, kept):
    folder = tmp_path / "spool"
    path = written(store, folder, (1, 2, 3))
    content = damage(path.read_bytes())
    path.write_bytes(content)
    # Its name is the last one.
    other = written(store, folder, (4,), NOW + 3600)
    (folder / "a.arrows").mkdir()
    found = uploaded(store, folder)
    assert logged(store) == [(f"id-{number}", row) for number in [*kept, 4] for row in (0, 1)]
    aside = path.with_suffix(".damaged")
    assert (aside.read_bytes(), path.exists(), other.exists()) == (content, False, False)
    assert found.damaged == 1
    assert [record for record in caplog.records if record.levelname == "ERROR" and str(aside) in record.getMessage()]
    # It is not uploaded again.
    assert uploaded(store, folder).damaged == 1
    assert len(logged(store)) == 2 * len([*kept, 4])


def test_a_file_with_a_single_torn_batch_is_no_damaged_file(store, tmp_path):
    path = written(store, tmp_path / "spool", (1,))
    content = path.read_bytes()
    for size in (0, 3, 100, len(content) - 10):
        path.write_bytes(content[:size])
        assert uploaded(store, tmp_path / "spool").damaged == 0
        assert not path.exists()
    assert logged(store) == []


def test_a_disk_that_cannot_be_read_is_no_damage(store, tmp_path):
    class Disk(io.FileIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    with pytest.raises(OSError, match="Input/output"), Disk(written(store, tmp_path / "spool", (1,))) as file:
        log._parquet(file)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_a_file_that_cannot_be_read_now_stays(store, tmp_path, monkeypatch, error):
    folder, real = tmp_path / "spool", log._parquet
    path, other = written(store, folder, (1,)), written(store, folder, (2,), NOW + 3600)

    def fail(file):
        if Path(file.name) == path:
            raise error
        return real(file)

    monkeypatch.setattr(log, "_parquet", fail)
    uploaded(store, folder)
    assert (path.exists(), other.exists()) == (True, False)
    monkeypatch.undo()
    assert uploaded(store, folder).damaged == 0
    assert logged(store) == [("id-1", 0), ("id-1", 1), ("id-2", 0), ("id-2", 1)]


def test_a_disk_that_is_full_loses_only_what_it_refused(store, tmp_path, monkeypatch):
    found = spool(store, tmp_path / "spool")
    found.add(answer(1))
    found._flush()

    def refuse(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log.os, "fsync", refuse)
        found.add(answer(2))
        found._flush()
    found.add(answer(3))
    found.start()
    found.stop()
    assert {request_id for request_id, _ in logged(store)} >= {"id-1", "id-3"}
    assert len(logged(store)) == len(set(logged(store)))
    assert b"mlops_serve_log_dropped_rows_total 2.0" in found._metrics.text()


def scored(store, window, version=1):
    """Predictions that ScoreOperator has written."""
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.predictions import log as prediction_log

    served = answer(1, version=version).served
    with DatasetWriter(store, "m_predictions", prediction_log.folder(window, version)) as writer:
        writer.write(served.columns.logged([answer(1).rows]))
        slot = prediction_log.slot(served.ref, window, [], None)
        writer.commit(window=window, details=served.details, slots=[slot], time_column="a")


def serve(store, folder, *moments: float) -> None:
    found = spool(store, folder)
    for number, at in enumerate(moments):
        found.add(answer(number, at))
    found.start()
    found.stop()


@pytest.mark.parametrize("first", ["server", "batch"])
@pytest.mark.parametrize("wider", ["month", "hour of another version", "hour"])
def test_predictions_of_servers_and_of_scoring_in_batches_never_hide_each_other(store, tmp_path, wider, first):
    hour = window_at(NOW, "hour")
    window = Window.model_validate("2023-11") if wider == "month" else hour
    version = 2 if "another" in wider else 1
    if first == "batch":
        scored(store, window, version)
    serve(store, tmp_path / "spool", NOW, NOW + 7200)
    if first == "server":
        with pytest.raises(SpecError, match=hour.label):
            require_unserved(store, "m_predictions", window)
        return
    entries = PredictionLog(store, "m").entries()
    assert sorted(entry.rows for entry in entries) == [2, 2, 2]
    for within in (None, window, hour):
        with pytest.raises(SpecError, match=hour.label) as refused:
            select(store, DatasetSelection(name="m_predictions", window=within))
        assert window.label in str(refused.value)
    # Where they do not overlap, both are read.
    later_hour = window_at(NOW + 7200, "hour")
    if wider != "month":
        assert [item.rows for item in select(store, DatasetSelection(name="m_predictions", window=later_hour))] == [2]
    require_unserved(store, "m_predictions", Window.model_validate("2023-12"))


def test_hours_and_days_of_servers_do_not_hide_each_other(store, tmp_path):
    serve(store, tmp_path / "spool", NOW)
    found = log.PredictionSpool(store, "m", tmp_path / "spool", "day", Metrics())
    found.add(answer(5))
    found.start()
    found.stop()
    with pytest.raises(SpecError, match=window_at(NOW, "hour").label):
        select(store, DatasetSelection(name="m_predictions", window=window_at(NOW, "day")))


def test_many_predictions_do_not_wait_for_the_next_second(store, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "_FLUSH_SECONDS", 20.0)
    monkeypatch.setattr(log, "_WAITING_ROWS", 2)
    found = spool(store, tmp_path / "spool")
    found.start()
    began = time.monotonic()
    for number in range(4):
        found.add(answer(number))
    assert time.monotonic() - began < 15
    found.stop()
    assert len(logged(store)) == 8
