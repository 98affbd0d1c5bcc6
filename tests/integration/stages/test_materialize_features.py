"""A Feast repository is applied and materialized chunk by chunk. A retry continues where the last attempt stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import FeatureStoreError, MaterializationError, SchemaError
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.publishing import SourceFolder
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec
from airflow_mlops.stages.materialize_features.step import run

REPOSITORY = Path(__file__).parents[3]
FLIGHTS = REPOSITORY / "dags" / "flights_features"


@pytest.fixture(scope="session")
def feast_init(tmp_path_factory) -> Path:
    """What `feast init` makes."""
    # The command itself takes most of a minute on a slow machine, because it imports every online store.
    with feast_repo.lean_imports():
        from feast.repo_operations import init_repo

    folder = tmp_path_factory.mktemp("feast_init") / "drivers"
    init_repo("drivers", "local", str(folder))
    return folder / "feature_repo"


@pytest.fixture
def drivers(feast_init, tmp_path) -> Path:
    return Path(shutil.copytree(feast_init, tmp_path / "drivers"))


@pytest.fixture
def store(tmp_path) -> ArtifactStore:
    return ArtifactStore(f"file://{tmp_path}/store")


@pytest.fixture
def flights(tmp_path, monkeypatch) -> Path:
    """The example's feature repository, which keeps everything it writes in a folder of its own."""
    monkeypatch.setenv("FLIGHTS_FEATURES_HOME", str(tmp_path / "home" / "feast"))
    return FLIGHTS


def materialize(store, repo, window, key="results/task.json", context=None, **options):
    spec = parse(MaterializeFeaturesSpec, {"repo": str(repo), "window": window, **options}, "The step")
    return run(spec, context or StepContext(store=store, key=key))


def last_days(repo, days=4) -> Window:
    """The last days of the rows that `feast init` made up."""
    times = pq.read_table(repo / "data" / "driver_stats.parquet")["event_timestamp"].to_pandas()
    end = times.max().to_pydatetime().replace(tzinfo=timezone.utc)
    return Window(start=end - timedelta(days=days), end=end + timedelta(hours=1))


def online(repo, feature="driver_hourly_stats:avg_daily_trips", **row):
    found = feast_repo.open_store(str(repo)).get_online_features(features=[feature], entity_rows=[row]).to_dict()
    return found[feature.partition(":")[2]][0]


def intervals(repo, view):
    views = {item.name: item for item in feast_repo.open_store(str(repo)).list_batch_feature_views()}
    return sorted(views[view].materialization_intervals)


def test_a_repository_made_by_feast_init_works_unchanged(drivers, store):
    before = {path: path.read_bytes() for path in drivers.rglob("*") if path.is_file()}
    modules, path = set(sys.modules), list(sys.path)
    result = materialize(store, drivers, str(last_days(drivers)), chunk="1D")
    assert result.feature_views == ["driver_hourly_stats", "driver_hourly_stats_fresh"]
    assert (result.chunks, result.chunks_skipped) == (5, 0)
    assert result.summary.startswith(
        "Materialized driver_hourly_stats, driver_hourly_stats_fresh of Feast project drivers for "
    )
    rows = pq.read_table(drivers / "data" / "driver_stats.parquet").to_pandas()
    newest = rows[rows.driver_id == 1001].sort_values(["event_timestamp", "created"]).avg_daily_trips.iloc[-1]
    assert online(drivers, driver_id=1001) == newest
    assert {path: path.read_bytes() for path in before} == before
    # The modules of this repository have the same names as modules of another repository.
    assert not {"feature_definitions", "test_workflow"} & (set(sys.modules) - modules)
    assert sys.path == path


class BreakingContext(StepContext):
    """Lets the source vanish after two chunks."""

    def progress(self, message):
        said.append(message)
        if len(said) == 2:
            source.rename(source.with_suffix(".gone"))


said: list[str] = []
source = Path()


def test_a_retry_skips_the_chunks_that_are_finished(drivers, store):
    global source
    source = drivers / "data" / "driver_stats.parquet"
    said.clear()
    window = str(last_days(drivers))
    with pytest.raises(
        MaterializationError, match="Earlier chunks are materialized. A retry of the task continues with this chunk"
    ) as failure:
        materialize(store, drivers, window, chunk="1D", context=BreakingContext(store=store, key="results/task.json"))
    assert failure.value.retryable
    assert len(said) == 2
    source.with_suffix(".gone").rename(source)
    (start, _), (_, second) = intervals(drivers, "driver_hourly_stats")

    retried = materialize(store, drivers, window, chunk="1D")
    assert (retried.chunks, retried.chunks_skipped) == (3, 2)
    assert "in 3 chunks (2 more chunks by an earlier try)" in retried.summary
    spans = intervals(drivers, "driver_hourly_stats")
    assert len(spans) == 5, "no chunk was materialized twice"
    assert spans[0][0] == start
    assert spans[2][0] == second + timedelta(microseconds=1)
    # A task that a user cleared has another key, and runs again from the start.
    again = materialize(store, drivers, window, chunk="1D", key="results/cleared.json")
    assert again.chunks_skipped == 0


def test_only_the_requested_views_are_materialized(drivers, store):
    result = materialize(store, drivers, str(last_days(drivers, 1)), feature_views=["driver_hourly_stats_fresh"])
    assert result.feature_views == ["driver_hourly_stats_fresh"]
    assert intervals(drivers, "driver_hourly_stats") == []
    with pytest.raises(FeatureStoreError, match="no feature view 'nothing' that is served online.*: driver_hourly"):
        materialize(store, drivers, "2013", feature_views=["nothing"], key="results/other.json")


def test_without_apply_the_registered_definitions_are_used(drivers, store):
    with pytest.raises(FeatureStoreError):
        materialize(store, drivers, "2013", apply=False, feature_views=["driver_hourly_stats"])
    materialize(store, drivers, "2013", key="results/1.json")
    (drivers / "feature_definitions.py").write_text("nonsense(")
    materialize(store, drivers, "2013", apply=False, key="results/2.json")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "feature_definitions.py",
            "x = (\n",
            r"cannot be imported \(feature_definitions.py, line \d\): SyntaxError: '\(' was never",
        ),
        (
            "feature_definitions.py",
            "\nimport nowhere_to_be_found\n",
            r"feature_definitions.py, line 2\): ModuleNotFoundError",
        ),
        ("more/views.py", "\n\nboom()\n", r"more/views.py, line 3\): NameError: name 'boom' is not defined"),
        ("more.py", "import sys\nsys.exit(3)\n", r"more.py, line 2\): SystemExit: 3"),
        ("project.py", "from feast import Project\nother = Project(name='other')\n", "defines the projects .*other"),
        (
            "feature_store.yaml",
            "project: [",
            "cannot open the repository configured in .*feature_store.yaml: ParserError",
        ),
        (
            "feature_store.yaml",
            "project: p\nprovider: local\nonline_store:\n  type: nosuch\n",
            "cannot open the repository configured in .*yaml",
        ),
        (
            "feature_store.yaml",
            "project: ${NOT_SET_HERE}\n",
            "environment variable NOT_SET_HERE, which is not set where",
        ),
    ],
)
def test_a_repository_that_does_not_parse_is_an_error_with_file_and_reason(drivers, store, file, text, message):
    (drivers / file).parent.mkdir(exist_ok=True)
    (drivers / file).write_text(text)
    with pytest.raises(FeatureStoreError, match=message) as failure:
        materialize(store, drivers, "2013")
    assert not failure.value.retryable


def test_for_a_folder_that_is_not_a_repository_the_error_suggests_one(feast_init, store, tmp_path):
    with pytest.raises(FeatureStoreError, match=r"is not a Feast repository, .* Set `repo` to .*feature_repo"):
        materialize(store, feast_init.parent, "2013")
    with pytest.raises(FeatureStoreError, match="is not a Feast repository"):
        materialize(store, tmp_path / "nowhere", "2013")


def test_two_repositories_with_files_of_the_same_name_are_kept_apart(drivers, store, tmp_path):
    other = Path(shutil.copytree(drivers, tmp_path / "other"))
    text = (other / "feature_definitions.py").read_text()
    (other / "feature_definitions.py").write_text(text.replace('name="driver_hourly_stats"', 'name="renamed"'))
    assert "driver_hourly_stats" in materialize(store, drivers, "2013", key="results/1.json").feature_views
    views = materialize(store, other, "2013", key="results/2.json").feature_views
    assert views == ["driver_hourly_stats_fresh", "renamed"]


def test_a_view_that_was_removed_from_the_repository_is_removed_from_the_registry(drivers, store):
    materialize(store, drivers, "2013", key="results/1.json")
    for file in drivers.glob("*.py"):
        file.unlink()
    (drivers / "fewer.py").write_text("from feast import Project\nproject = Project(name='drivers')\n")
    assert materialize(store, drivers, "2013", key="results/2.json").feature_views == []
    assert feast_repo.open_store(str(drivers)).list_batch_feature_views() == []


def weather(*rows, name="weather", window=None, store, drop=()):
    columns = {
        "origin": pa.array([row[0] for row in rows], pa.string()),
        "time_hour": [row[1] for row in rows],
        "temp": pa.array([row[2] for row in rows]),
    }
    for column in ("dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        columns[column] = pa.nulls(len(rows))
    table = pa.table({name: column for name, column in columns.items() if name not in drop})
    with DatasetWriter(store, name) as writer:
        writer.write(table)
        return writer.commit(window=Window.model_validate(window) if window else None)[0].ref.model_dump(mode="json")


def planes(store, seats):
    table = pa.table(
        {"tailnum": list(seats), "year": pa.array([2000] * len(seats)), "type": ["jet"] * len(seats),
         "manufacturer": ["X"] * len(seats), "engines": [2] * len(seats), "seats": list(seats.values()),
         "engine": ["Turbo"] * len(seats)}
    )  # fmt: skip
    with DatasetWriter(store, "planes") as writer:
        writer.write(table)
        return writer.commit()[0].ref.model_dump(mode="json")


def replay(store, repo, month, temp, key=None, **sources):
    ref = weather(("EWR", f"{month}-20T12:00:00Z", temp), window=month, store=store)
    everything = {"weather": ref, **sources}
    return materialize(store, repo, month, key=key or f"results/{month}.json", sources=everything)


def published(tmp_path, name="weather"):
    return sorted(path.name for path in (tmp_path / "home" / "feast" / "sources" / name).iterdir())


def planes_source(store, **seats):
    return {"dataset": planes(store, seats), "valid_from": "2013-01-01"}


def test_datasets_can_be_published_in_any_order_and_repeatedly(flights, store, tmp_path):
    snapshot = planes_source(store, N1=100)
    result = replay(store, flights, "2013-02", 30.5, planes=snapshot)
    assert result.published == {"weather": 1, "planes": 1}
    assert result.summary.startswith(
        "Published 1 row as weather, published 1 row as planes, materialized planes, weather"
    )
    # One month has whole numbers and another has fractions. The type that the view declares is used for both.
    replay(store, flights, "2013-01", 20, planes=snapshot)
    assert published(tmp_path) == [
        "20130101T000000Z-20130201T000000Z.parquet",
        "20130201T000000Z-20130301T000000Z.parquet",
    ]
    tables = [pq.read_table(tmp_path / "home" / "feast" / "sources" / "weather" / file) for file in published(tmp_path)]
    assert [table["temp"].to_pylist() for table in tables] == [[20.0], [30.5]]
    assert tables[0].schema.field("time_hour").type == pa.timestamp("us", "UTC")
    # The older month was materialized last, but the online store keeps the newer values.
    assert online(flights, "weather:temp", origin="EWR") == 30.5
    assert online(flights, "planes:seats", tailnum="N1") == 100
    assert online(flights, "planes:plane_year", tailnum="N1") == 2000
    # Publishing the same data again changes nothing. Other data replaces its window.
    again = replay(store, flights, "2013-02", 30.5, key="results/2.json", planes=snapshot)
    assert again.published == {}
    changed = replay(store, flights, "2013-02", 31.5, key="results/3.json", planes=planes_source(store, N1=101))
    assert changed.published == {"weather": 1, "planes": 1}
    assert len(published(tmp_path)) == 2
    assert len(published(tmp_path, "planes")) == 1
    assert online(flights, "weather:temp", origin="EWR") == 31.5
    assert online(flights, "planes:seats", tailnum="N1") == 101


def test_the_cleared_task_of_an_earlier_run_keeps_what_was_published_since(flights, store):
    """The earlier run has its own datasets, an older snapshot and other rows of the same window."""
    old = {
        "planes": planes_source(store, N1=100),
        "weather": weather(("EWR", "2013-01-20T12:00:00Z", 20), window="2013-01", store=store),
    }
    new = {
        "planes": planes_source(store, N1=101),
        "weather": weather(("EWR", "2013-01-20T12:00:00Z", 21), window="2013-01", store=store),
    }
    for key, sources in ("old", old), ("new", new), ("cleared", old):
        result = materialize(store, flights, "2013-01", key=f"results/{key}.json", sources=sources)
        assert (result.published == {}) == (key == "cleared")
    assert online(flights, "weather:temp", origin="EWR") == 21
    assert online(flights, "planes:seats", tailnum="N1") == 101
    # Old rows that are ingested again are new.
    planes_source(store, N1=100)
    result = materialize(store, flights, "2013-01", key="results/again.json", sources=old)
    assert result.published == {"planes": 1}
    assert online(flights, "planes:seats", tailnum="N1") == 100


def test_a_deleted_online_store_is_filled_again_from_the_first_window_on(flights, store, tmp_path):
    snapshot = planes_source(store, N1=100)
    for month, origin in ("2013-01", "EWR"), ("2013-02", "JFK"):
        ref = weather((origin, f"{month}-20T12:00:00Z", 20), window=month, store=store)
        materialize(store, flights, month, key=f"results/{month}.json", sources={"weather": ref, "planes": snapshot})
    (file,) = (tmp_path / "home" / "feast").rglob("online*.db")
    file.unlink()
    # The registry lists January and February, and the window has neither of the two rows.
    materialize(store, flights, "2013-03", key="results/2013-03.json", chunk="7D")
    assert [online(flights, "weather:temp", origin=origin) for origin in ("EWR", "JFK")] == [20, 20]
    assert online(flights, "planes:seats", tailnum="N1") == 100


def test_a_snapshot_reaches_the_online_store_for_any_window(flights, store):
    replay(store, flights, "2013-07", 80, planes=planes_source(store, N1=100))
    assert online(flights, "planes:seats", tailnum="N1") == 100


def test_all_windows_of_a_name_can_be_published_at_once(flights, store, tmp_path):
    for month in (1, 2, 3):
        weather(("EWR", f"2013-0{month}-20T12:00:00Z", month), window=f"2013-0{month}", store=store)
    sources = {"weather": {"name": "weather", "window": "2013-01..2013-02"}, "planes": planes_source(store, N1=1)}
    assert materialize(store, flights, "2013", sources=sources).published["weather"] == 2
    assert len(published(tmp_path)) == 2


def test_days_that_replace_a_month_replace_its_published_rows(flights, store, tmp_path, monkeypatch):
    replay(store, flights, "2013-02", 30.5, planes=planes_source(store, N1=1))
    days = [f"2013-02-{day:02}" for day in range(1, 29)]
    for day in days[:-1]:
        weather(("EWR", f"{day}T12:00:00Z", int(day[-2:])), window=day, store=store)
    sources = {"weather": {"name": "weather", "window": "2013-02"}}
    # The file of the month still contains the rows of this part, so they would be published twice.
    with pytest.raises(SchemaError, match="replace only a part of dataset 'weather' of the window 2013-02: 2013-02-28"):
        materialize(store, flights, "2013-02", key="results/part.json", sources=sources)
    with pytest.raises(FeatureStoreError, match="'weather' has the rows of 2013-02 in .* only a part"):
        one = {"weather": {"name": "weather", "window": "2013-02-03"}}
        materialize(store, flights, "2013-02-03", key="results/day.json", sources=one)
    assert published(tmp_path) == ["20130201T000000Z-20130301T000000Z.parquet"]
    weather(("EWR", "2013-02-28T12:00:00Z", 28), window=days[-1], store=store)

    # If a task fails before it deletes the file of the month, its retry deletes the file.
    with monkeypatch.context() as broken:
        broken.setattr(SourceFolder, "remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            materialize(store, flights, "2013-02", key="results/days.json", sources=sources)
    assert len(published(tmp_path)) == 29
    materialize(store, flights, "2013-02", key="results/days.json", sources=sources)
    assert len(published(tmp_path)) == 28
    assert "20130201T000000Z-20130301T000000Z.parquet" not in published(tmp_path)
    rows = pq.read_table(tmp_path / "home" / "feast" / "sources" / "weather")
    assert sorted(rows["temp"].to_pylist()) == list(range(1, 29))
    assert online(flights, "weather:temp", origin="EWR") == 28

    # The materialization of a whole month replaces the files of its days in the same way.
    replay(store, flights, "2013-02", 31.5, key="results/month.json")
    assert published(tmp_path) == ["20130201T000000Z-20130301T000000Z.parquet"]


def test_after_a_change_of_a_view_earlier_windows_get_the_new_columns(store, tmp_path, monkeypatch):
    monkeypatch.setenv("FLIGHTS_FEATURES_HOME", str(tmp_path / "home" / "feast"))
    repo = Path(shutil.copytree(FLIGHTS, tmp_path / "repo"))
    text = (repo / "definitions.py").read_text()
    line = next(line for line in text.splitlines() if '"temp"' in line)
    (repo / "definitions.py").write_text(text.replace(line, ""))
    snapshot = planes_source(store, N1=1)
    replay(store, repo, "2013-01", 20, planes=snapshot)
    folder = tmp_path / "home" / "feast" / "sources" / "weather"
    assert "temp" not in pq.read_table(folder).column_names
    (repo / "definitions.py").write_text(text)
    replay(store, repo, "2013-02", 30, planes=snapshot)
    assert sorted(pq.read_table(folder)["temp"].to_pylist()) == [20.0, 30.0]
    assert online(repo, "weather:temp", origin="EWR") == 30.0


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            [("EWR", "2013-01-20T12:00:00Z", "warm")],
            {},
            "Column 'temp' of dataset 'weather.* the type string, .* the type double",
        ),
        ([("EWR", "noon", 1)], {}, "'time_hour' of dataset 'weather.* contains 'noon' in row 1"),
        ([("EWR", None, 1), ("EWR", "2013-01-20T12:00:00Z", 1)], {}, "is null in 1 row"),
        ([("EWR", "2013-01-20T12:00:00Z", 1)], {"drop": ["temp"]}, "no column 'temp', which the feature views declare"),
        ([("EWR", "2013-01-20T12:00:00Z", 1)], {"drop": ["origin"]}, "no column 'origin', which"),
        (
            [("EWR", "2013-01-20T12:00:00Z", 1)],
            {"drop": ["time_hour"]},
            "no column 'time_hour', the timestamp",
        ),
    ],
)
def test_a_dataset_that_does_not_fit_its_source_is_refused_and_nothing_is_published(
    flights, store, tmp_path, rows, options, message
):
    ref = weather(*rows, store=store, window="2013-01", **options)
    with pytest.raises(SchemaError, match=message):
        materialize(store, flights, "2013-01", sources={"weather": ref})
    folder = tmp_path / "home" / "feast" / "sources" / "weather"
    assert not folder.exists() or not list(folder.iterdir())


def test_a_source_that_does_not_exist_or_is_one_file_is_refused(flights, drivers, store):
    ref = weather(("EWR", "2013-01-20T12:00:00Z", 1), store=store)
    with pytest.raises(FeatureStoreError, match="no file source 'wether'.*: 'planes', 'weather'"):
        materialize(store, flights, "2013-01", sources={"wether": ref})
    with pytest.raises(FeatureStoreError, match=r"is a single file, data/driver_stats\.parquet"):
        materialize(store, drivers, "2013-01", sources={"driver_hourly_stats_source": ref}, key="results/2.json")


def test_valid_from_is_refused_for_rows_with_times(flights, store):
    ref = weather(("EWR", "2013-01-20T12:00:00Z", 1), store=store)
    with pytest.raises(SchemaError, match="has the timestamp column 'time_hour'.*Omit `valid_from`"):
        materialize(store, flights, "2013-01", sources={"weather": {"dataset": ref, "valid_from": "2013-01-01"}})


def test_for_a_source_without_a_file_the_error_suggests_a_dataset(flights, store):
    with pytest.raises(
        FeatureStoreError, match="The file of a source does not exist. Write the file first, or publish a dataset"
    ):
        materialize(store, flights, "2013-01")


def test_the_example_writes_nothing_into_the_checkout(flights, store, tmp_path):
    before = sorted(path for path in FLIGHTS.rglob("*") if "__pycache__" not in path.parts)
    replay(store, flights, "2013-01", 20, planes=planes_source(store, N1=1))
    assert sorted(path for path in FLIGHTS.rglob("*") if "__pycache__" not in path.parts) == before
    assert {path.name for path in (tmp_path / "home" / "feast").iterdir()} == {
        "registry.db", "registry.db.lock", "online.db", "sources",
    }  # fmt: skip


TASK = """
import sys
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.materialize_features.step import run
repo, store, view = sys.argv[1:]
spec = MaterializeFeaturesSpec(repo=repo, window="2013-01", chunk="1D", feature_views=[view])
run(spec, StepContext(store=ArtifactStore(store), key=f"results/{view}.json"))
"""


def test_two_concurrent_tasks_keep_each_others_changes(drivers, store):
    views = ["driver_hourly_stats", "driver_hourly_stats_fresh"]
    tasks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TASK, str(drivers), store.url, view],
            stderr=subprocess.PIPE,
            text=True,
        )
        for view in views
    ]
    try:
        for task in tasks:
            # Where four other processes share two cores, the tasks take two minutes.
            _, said = task.communicate(timeout=600)
            assert task.returncode == 0, said
    finally:
        for task in tasks:
            task.kill()
    # Feast rewrites the whole registry for every chunk. Without the lock, one task would overwrite chunks of the other.
    assert [len(intervals(drivers, view)) for view in views] == [31, 31]


def test_feast_is_opened_without_torch_and_typeguard(flights, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import sys
from airflow_mlops.data.feast import repository as feast_repo
feast_repo.open_store({str(flights)!r})
heavy = {{"torch", "mlflow", "sklearn", "great_expectations", "kubernetes"}} & set(sys.modules)
assert not heavy, heavy
import typeguard
@typeguard.typechecked
def checked(x: int): ...
try:
    checked("text")
except typeguard.TypeCheckError:
    print("typeguard works for others")
import torch
print("torch too:", torch.__name__)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["typeguard works for others", "torch too: torch"]


def test_a_window_includes_its_start_and_excludes_its_end(flights, store):
    rows = [("EWR", "2013-01-01T00:00:00Z", 1), ("JFK", "2013-02-01T00:00:00Z", 2)]
    ref = weather(*rows, store=store, window="2013-01..2013-02")
    sources = {"weather": ref, "planes": planes_source(store, N1=1)}
    materialize(store, flights, "2013-01", sources=sources)
    assert online(flights, "weather:temp", origin="EWR") == 1.0
    assert online(flights, "weather:temp", origin="JFK") is None
    assert datetime(2013, 2, 1, tzinfo=timezone.utc) > intervals(flights, "weather")[0][1]
