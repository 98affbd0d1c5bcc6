"""Time and memory of each stage on a window of any size: 20 columns (14 numbers, 5 texts, one time).

``python -m benchmarks.scale [--rows N] [--stages NAME ...] [--memory SIZE] [--no-peers]``. Each stage runs alone, in a
process of its own, on datasets in an artifact store. It is compared with a peer: what a user would otherwise write with
Great Expectations, DuckDB or ONNX Runtime, without hashes, manifests and checks. Imports, and the opening of MLflow's
database, are not measured. The peak is that of the whole process, interpreter and libraries included; the part that the
imports need is printed as ``base MB``.

Stages with ``shards=`` also run in four shards in two processes, and are compared with one pass without shards. First,
the shards and the pass use all CPUs. Then, each process has one CPU, like a pod with one CPU. The CPU seconds of the
shards are those of the process that needs more. They do not depend on other programs on the machine.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_mlops.core.arrow_memory import use_malloc

STAGES = {
    "validate": "40 expectations, 5% of the rows quarantined; peer: Great Expectations on pandas, without quarantine",
    "training_set": "point-in-time join of two views, split by time, leakage checks; peer: DuckDB's ASOF JOIN alone",
    "join_labels": "a label for 95% of the predictions; peer: DuckDB's join alone",
    "score": "gradient boosted trees; peer: ONNX Runtime on batches of the Parquet file",
    "evaluate": "2,000 rounds, 50 slices; no peer",
    "profile": "all columns; no peer",
    "monitor": "labels, segments, multivariate drift; no peer",
}
NUMBERS = [f"x{n}" for n in range(13)]
TEXTS = {"carrier": 16, "origin": 3, "dest": 105, "tail": 4_000, "note": 50_000}
COLUMNS = ["id", *NUMBERS, *TEXTS, "at"]
# Operators write batches of 65,536 rows.
CHUNK, BATCH, TRAINING_ROWS = 262_144, 65_536, 20_000
APRIL, MONTH_MICROS = 1_364_774_400_000_000, 30 * 86_400_000_000
KEYS = 5_000
MODEL = "scale"
SHARDS, WORKERS = 4, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--memory", default="", help="memory of DuckDB in each stage; by default as [mlops] memory")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--keep", metavar="FOLDER", help="prepare the data here, and use it again if it exists")
    parser.add_argument("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--shards", nargs="+", metavar=("STAGE FOLDER RUN", "SHARD"), help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cpu is not None:
        # Libraries count the CPUs when they are imported.
        os.sched_setaffinity(0, {arguments.cpu})
    if arguments.prepare:
        prepare(Path(arguments.prepare), arguments.rows, arguments.stages)
    elif arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
    elif arguments.shards:
        stage, folder, run, *shards = arguments.shards
        run_shards(stage, Path(folder), run, [int(shard) for shard in shards])
    else:
        with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
            compare(Path(arguments.keep or folder), arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    rows, stages = arguments.rows, arguments.stages
    print(f"{rows:,} rows x {len(COLUMNS)} columns:")
    for stage in stages:
        print(f"  {stage:13} {STAGES[stage]}")
    if arguments.memory:
        os.environ["MLOPS_MEMORY"] = arguments.memory
    if not (folder / "rows.json").exists():
        print("Preparing the data...", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        child("--prepare", str(folder), "--rows", str(rows), "--stages", *stages)
    print(
        f"\n{'':14}{'seconds':>9}{'rows/s':>12}{'peak MB':>9}{'base MB':>9}{'peer s':>9}{'peer MB':>9}  speed, peer = 1"
    )
    figures = {}
    for stage in stages:
        found = json.loads(child("--measure", stage, str(folder)).splitlines()[-1])
        line = f"  {stage:12}{found['seconds']:9.2f}{rows / found['seconds']:12,.0f}{found['peak_mb']:9,}{found['base_mb']:9,}"
        if stage in PEERS and not arguments.no_peers:
            peer = json.loads(child("--measure", f"{stage}-peer", str(folder)).splitlines()[-1])
            found |= {f"peer_{name}": value for name, value in peer.items() if name != "base_mb"}
            found["speed"] = round(peer["seconds"] / found["seconds"], 2)
            line += f"{peer['seconds']:9.2f}{peer['peak_mb']:9,}  {found['speed']:.2f}"
        print(line, flush=True)
        if stage in SHARDED:
            found |= compare_shards(stage, folder, found)
        figures[stage] = found
    print(json.dumps({"benchmark": "scale", "rows": rows, "stages": figures}))


def compare_shards(stage: str, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Measure four shards, print their speed, and return the figures.

    :param found: the figures of one pass that uses all CPUs
    """
    seconds, _ = time_of_shards(stage, folder)
    figures = {"shards_seconds": seconds, "shards_speedup": round(found["seconds"] / seconds, 2)}
    print(f"  {SHARDS} shards in {WORKERS} processes: {seconds:.2f} s, {figures['shards_speedup']:.2f} times one pass")
    cpus = sorted(os.sched_getaffinity(0))[:WORKERS]
    if len(cpus) < WORKERS:
        print(f"  There are fewer than {WORKERS} CPUs, so processes with one CPU each are not measured.")
        return figures
    one = json.loads(child("--measure", stage, str(folder), "--cpu", str(cpus[0])).splitlines()[-1])
    seconds, cpu_seconds = time_of_shards(stage, folder, cpus)
    figures |= {
        "one_cpu_seconds": one["seconds"],
        "one_cpu_cpu_seconds": one["cpu_seconds"],
        "one_cpu_shards_seconds": seconds,
        "one_cpu_shards_cpu_seconds": cpu_seconds,
        "one_cpu_shards_speedup": round(one["seconds"] / seconds, 2),
        "one_cpu_shards_cpu_speedup": round(one["cpu_seconds"] / cpu_seconds, 2),
    }
    print(
        f"  with one CPU for each process: {seconds:.2f} s and {cpu_seconds:.2f} CPU s; one pass on one CPU: {one['seconds']:.2f} s "
        f"and {one['cpu_seconds']:.2f} CPU s; {figures['one_cpu_shards_speedup']:.2f} times one pass by time, "
        f"{figures['one_cpu_shards_cpu_speedup']:.2f} times by CPU time",
        flush=True,
    )
    return figures


def child(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "benchmarks.scale", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return done.stdout


def measure(way: str, folder: Path) -> None:
    """Run one stage or its peer in this process, and print time and memory."""
    logging.disable(logging.WARNING)
    _use_mlflow(folder)
    stage, _, peer = way.partition("-")
    if not peer:
        use_malloc()
    work = (PEERS if peer else WORK)[stage](folder)
    base = peak_mb()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        json.dumps(
            {
                "seconds": round(wall, 3),
                "cpu_seconds": round(cpu, 3),
                "peak_mb": round(peak_mb()),
                "base_mb": round(base),
            }
        )
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _use_mlflow(folder: Path) -> None:
    os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps(
        {"conn_type": "mlflow", "host": f"sqlite:///{folder}/mlflow.db"}
    )
    # Without a server MLflow writes its files to the working directory.
    os.chdir(folder)


# The data


def chunks(rows: int, seed: int = 0) -> Iterator[Any]:
    """Yield the rows of the window, in pieces. About 1 of 100 numbers is null, and 1 of 20 rows is invalid (``x0``)."""
    for first in range(0, rows, CHUNK):
        yield chunk(first, min(CHUNK, rows - first), rows, seed)


def chunk(first: int, count: int, rows: int, seed: int) -> Any:
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng([seed, first])
    x = random.normal(size=(count, len(NUMBERS)))
    x[random.random(count) < 0.05, 0] += 100
    columns: dict[str, Any] = {"id": pa.array(np.arange(first, first + count))}
    columns |= {
        name: pa.array(x[:, n], mask=random.random(count) < 0.01) if n else pa.array(x[:, n])
        for n, name in enumerate(NUMBERS)
    }
    for name, values in TEXTS.items():
        codes = np.minimum(random.zipf(1.3, count) - 1, values - 1)
        words = pa.array([f"{name[0].upper()}{n:05}" for n in range(values)])
        columns[name] = words.take(pa.array(codes))
    at = APRIL + (np.arange(first, first + count) * (MONTH_MICROS / rows)).astype(np.int64)
    columns["at"] = pa.array(at, pa.timestamp("us", "UTC"))
    return pa.table(columns)


def truth(table: Any, seed: int = 0) -> Any:
    """Return labels that depend on two numbers and a text."""
    import numpy as np

    random = np.random.default_rng([seed, 77, table["id"][0].as_py()])
    x = [np.nan_to_num(table[name].to_numpy()) for name in ("x1", "x2", "x3")]
    return x[0] - x[1] * x[2] + random.logistic(size=table.num_rows) > 0.3


def prepare(folder: Path, rows: int, stages: list[str]) -> None:
    import pyarrow as pa

    from airflow_mlops.core.windows import Window
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore

    _use_mlflow(folder)
    store, april = ArtifactStore(f"file://{folder}/store"), Window.model_validate("2013-04")

    def write(name: str, tables: Iterator[Any], window: Window | None = april, **details: Any) -> Any:
        with DatasetWriter(store, name) as writer:
            for table in tables:
                for batch in table.combine_chunks().to_batches(max_chunksize=BATCH):
                    writer.write(batch)
            return writer.commit(
                window=window, details={"keys": ["id"], "timestamp": "at", **details}, time_column="at"
            )[0]

    made = {"rows": write("rows", chunks(rows)).ref}
    if "join_labels" in stages:
        made["predictions"] = write(
            "predictions",
            (table.append_column("score", table["x1"]) for table in chunks(rows)),
            model="other",
            model_version=1,
        ).ref
        made["labels"] = write(
            "labels",
            (
                pa.table({"id": table["id"], "outcome": pa.array(truth(table)), "known": table["at"]}).slice(
                    0, int(table.num_rows * 0.95)
                )
                for table in chunks(rows)
            ),
        ).ref
    if "training_set" in stages:
        _feature_views(folder, rows)
        made["events"] = write("events", (_events(table) for table in chunks(rows))).ref
    if {"score", "evaluate", "monitor", "profile"} & {*stages}:
        _train(store, made, write, rows, stages)
    (folder / "rows.json").write_text(
        json.dumps({name: json.loads(ref.model_dump_json()) for name, ref in made.items()})
    )


def _events(table: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    table = table.append_column("user", pa.array(np.char.add("u", (table["id"].to_numpy() % KEYS).astype(str))))
    return table.append_column("late", pa.array(truth(table)))


REPOSITORY = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
one, two = (
    FeatureView(
        name=name,
        entities=[user],
        ttl=timedelta(days=90),
        schema=[Field(name="user", dtype=String)] + [Field(name=f"{name}_{n}", dtype=Float64) for n in range(3)],
        source=FileSource(name=name, path=f"{name}.parquet", timestamp_field="at"),
    )
    for name in ("one", "two")
)
"""
CONFIGURATION = """
project: benchmark
provider: local
registry: registry.db
online_store: null
entity_key_serialization_version: 3
"""


def _feature_views(folder: Path, rows: int) -> None:
    """Write two views with a tenth as many rows as events each, and apply the repository."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_mlops.data.feast import repository

    for seed, name in enumerate(("one", "two")):
        random, count = np.random.default_rng(seed), max(KEYS, rows // 10)
        columns = {f"{name}_{n}": random.normal(size=count) for n in range(3)}
        at = np.sort(APRIL + random.integers(-MONTH_MICROS, MONTH_MICROS, count))
        users = pa.array(np.char.add("u", random.integers(KEYS, size=count).astype(str)))
        pq.write_table(
            pa.table({"user": users, "at": pa.array(at, pa.timestamp("us", "UTC")), **columns}),
            folder / f"{name}.parquet",
        )
    (folder / "feature_store.yaml").write_text(CONFIGURATION)
    (folder / "definitions.py").write_text(REPOSITORY)
    store = repository.open_store(str(folder))
    repository.apply(store, repository.parse_repo(store))


def _train(store: Any, made: dict[str, Any], write: Callable[..., Any], rows: int, stages: list[str]) -> None:
    """Train and promote a champion and a candidate, and write the rows that evaluation and monitoring read."""
    import pyarrow as pa

    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.registry.client import connect
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.evaluate import step as evaluate
    from airflow_mlops.stages.evaluate.spec import EvaluateSpec
    from airflow_mlops.stages.train import step as train
    from airflow_mlops.stages.train.spec import TrainSpec

    features = [*NUMBERS, "carrier", "origin", "dest"]
    details = {"label": "label", "task": "binary", "features": features, "timestamp": "at", "keys": ["id"]}

    def labelled(table: Any, seed: int) -> Any:
        return table.append_column("label", pa.array(truth(table, seed)))

    with DatasetWriter(store, "training") as writer:
        for part, seed in (("train", 1), ("test", 2)):
            writer.write(labelled(chunk(0, TRAINING_ROWS, TRAINING_ROWS, seed), seed), part)
        training = writer.commit(details=details)[0].ref
    client = connect(MLflowTarget(), from_environment)
    versions = []
    for number, estimators in enumerate((60, 50)):
        trainer = {"estimator": "sklearn.ensemble.GradientBoostingClassifier", "params": {"n_estimators": estimators}}
        spec = TrainSpec(model=MODEL, dataset=training, trainer=trainer)
        versions.append(train.run(spec, StepContext(store, key=f"results/train{number}.json")).candidate)
    evaluate.run(EvaluateSpec(candidates=versions, dataset=training), StepContext(store))
    client.set_registered_model_alias(MODEL, "champion", str(versions[1].version))
    made["candidate"] = versions[0]
    if "evaluate" in stages:
        with DatasetWriter(store, "held_out") as writer:
            for table in chunks(rows):
                writer.write(labelled(table, 0), "test")
            made["held_out"] = writer.commit(details=details)[0].ref
    if "monitor" in stages:
        from airflow_mlops.stages.join_labels import step as join_labels
        from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
        from airflow_mlops.stages.score import step as score
        from airflow_mlops.stages.score.spec import ScoreSpec

        scored = score.run(ScoreSpec(model=MODEL, dataset=made["rows"], name="scored"), StepContext(store)).dataset
        assert scored is not None
        known = write(
            "known", (pa.table({"id": t["id"], "label": pa.array(truth(t)), "at": t["at"]}) for t in chunks(rows))
        )
        made["outcomes"] = join_labels.run(
            JoinLabelsSpec(predictions=scored, labels=known.ref, on=["id"], label="label", name="outcomes"),
            StepContext(store),
        ).dataset


# The stages. Each function imports what its work needs, and returns the work.


def _open_mlflow() -> None:
    """Open MLflow's database in this process, which takes more than a second of CPU time. An MLflow server has its database open."""
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.registry import versions
    from airflow_mlops.registry.client import connect

    versions.champion(connect(MLflowTarget(), from_environment), MODEL)


def _reference(folder: Path, name: str) -> Any:
    return json.loads((folder / "rows.json").read_text())[name]


def _context(folder: Path) -> Any:
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext

    return StepContext(ArtifactStore(f"file://{folder}/store"))


def _paths(folder: Path, name: str) -> list[str]:
    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset

    store = _context(folder).store
    return [store.path(file.path) for file in open_dataset(store, DatasetRef(**_reference(folder, name))).files()]


def suite() -> dict[str, Any]:
    """Return 40 expectations, of which only one fails: ``x0`` is between -50 and 50 in 95% of the rows."""

    def one(kind: str, **kwargs: Any) -> dict[str, Any]:
        return {"type": f"expect_{kind}", "kwargs": kwargs}

    found = [one("column_values_to_be_between", column=name, min_value=-50, max_value=50) for name in NUMBERS]
    found += [one("column_values_to_not_be_null", column=name) for name in ("id", "x0", *TEXTS, "at")]
    found += [one("column_value_lengths_to_equal", column=name, value=6) for name in TEXTS]
    found += [
        one("column_values_to_match_regex", column=name, regex=f"^{name[0].upper()}[0-9]{{5}}$") for name in TEXTS
    ]
    found += [one("column_values_to_be_in_set", column="origin", value_set=["O00000", "O00001", "O00002"])]
    found += [one("column_values_to_be_unique", column="id")]
    found += [one("column_mean_to_be_between", column=name, min_value=-1, max_value=1) for name in ("x1", "x2", "x3")]
    found += [
        one("column_max_to_be_between", column="x1", max_value=20),
        one("column_min_to_be_between", column="at", min_value="2013-04-01"),
    ]
    found += [one("table_row_count_to_be_between", min_value=1), one("table_column_count_to_equal", value=len(COLUMNS))]
    assert len(found) == 40
    return {"name": "scale", "expectations": found}


def validate(folder: Path) -> Callable[[], Any]:
    step, spec = validate_in_shards(folder)
    return lambda: step(spec, _context(folder))


def validate_in_shards(folder: Path) -> tuple[Callable[..., Any], Any]:
    import great_expectations  # noqa: F401 - loaded before the clock runs

    from airflow_mlops.stages.validate import step
    from airflow_mlops.stages.validate.spec import ValidateSpec

    return step.run, ValidateSpec(dataset=_reference(folder, "rows"), suite=suite(), on_failure="quarantine")


def validate_peer(folder: Path) -> Callable[[], Any]:
    import great_expectations as gx
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - loaded before the clock runs

    from airflow_mlops.stages.validate.checkpoint import quiet_great_expectations

    quiet_great_expectations()
    paths, given = _paths(folder, "rows"), suite()
    for item in given["expectations"]:
        if item["kwargs"].get("min_value") == "2013-04-01":
            item["kwargs"]["min_value"] = pd.Timestamp("2013-04-01", tz="UTC")

    def work() -> None:
        frame = pd.concat([pd.read_parquet(path) for path in paths])
        context = gx.get_context(mode="ephemeral")
        asset = context.data_sources.add_pandas("peer").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        expectations = [
            gx.expectations.core.__dict__["".join(map(str.title, item["type"].split("_")))](**item["kwargs"])
            for item in given["expectations"]
        ]
        found = batch.validate(gx.ExpectationSuite(name="peer", expectations=expectations), result_format="COMPLETE")
        assert sum(not item.success for item in found.results) == 1

    return work


def training_set(folder: Path) -> Callable[[], Any]:
    import duckdb  # noqa: F401 - loaded before the clock runs

    from airflow_mlops.data.feast import join, repository  # noqa: F401
    from airflow_mlops.stages.training_set import leakage, splits, step  # noqa: F401
    from airflow_mlops.stages.training_set.spec import TrainingSetSpec

    repository.open_store(str(folder))  # imports Feast
    spec = TrainingSetSpec(
        name="joined",
        entities=_reference(folder, "events"),
        timestamp="at",
        label="late",
        repo=str(folder),
        features=[f"{name}:{name}_{n}" for name in ("one", "two") for n in range(3)],
        columns=[*NUMBERS, *TEXTS],
        keys=["id"],
        split={"method": "time", "test_size": 0.2},
    )
    return lambda: step.run(spec, _context(folder))


def training_set_peer(folder: Path) -> Callable[[], Any]:
    import duckdb

    events = _paths(folder, "events")

    def work() -> None:
        joins = " ".join(
            f'ASOF LEFT JOIN \'{folder}/{name}.parquet\' {name} ON e.user = {name}.user AND e."at" >= {name}."at"'
            for name in ("one", "two")
        )
        with duckdb.connect(config={"memory_limit": "2GB", "temp_directory": str(folder / "spill")}) as connection:
            connection.execute(
                f'COPY (SELECT e.*, one.* EXCLUDE (user, "at"), two.* EXCLUDE (user, "at") FROM read_parquet($events) e {joins}) '
                f"TO '{folder}/peer.parquet' (COMPRESSION zstd)",
                {"events": events},
            )

    return work


def join_labels(folder: Path) -> Callable[[], Any]:
    step, spec = join_labels_in_shards(folder)
    return lambda: step(spec, _context(folder))


def join_labels_in_shards(folder: Path) -> tuple[Callable[..., Any], Any]:
    import duckdb  # noqa: F401 - loaded before the clock runs
    import pandas as pd  # noqa: F401 - imported by Arrow if it is installed
    import pyarrow.parquet  # noqa: F401

    from airflow_mlops.stages.join_labels import step
    from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

    spec = JoinLabelsSpec(
        predictions=_reference(folder, "predictions"),
        labels=_reference(folder, "labels"),
        on=["id"],
        label="outcome",
        labels_timestamp="known",
        name="labelled",
    )
    return step.run, spec


def join_labels_peer(folder: Path) -> Callable[[], Any]:
    import duckdb

    left, right = _paths(folder, "predictions"), _paths(folder, "labels")

    def work() -> None:
        with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": str(folder / "spill")}) as connection:
            connection.execute(
                "COPY (SELECT p.*, l.outcome AS label, l.known AS label_at FROM read_parquet($left) p "
                f"LEFT JOIN read_parquet($right) l USING (id)) TO '{folder}/peer.parquet' (COMPRESSION zstd)",
                {"left": left, "right": right},
            )

    return work


def score(folder: Path) -> Callable[[], Any]:
    step, spec = score_in_shards(folder)
    return lambda: step(spec, _context(folder))


def time_of_shards(stage: str, folder: Path, cpus: Sequence[int] = ()) -> tuple[float, float]:
    """Run a stage in shards, divided among processes that have imported the libraries before the clock runs.

    :param cpus: the CPU of each process; by default each process uses all CPUs
    :return: seconds until the last process has finished, and the CPU seconds of the process that needs most
    """
    run = uuid.uuid4().hex
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale", "--shards", stage, str(folder), run, *map(str, range(first, SHARDS, WORKERS)),
             *(["--cpu", str(cpus[first])] if cpus else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first in range(WORKERS)
    ]  # fmt: skip
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    started = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
    # The end of a process is not a part of its work.
    ended = [worker.stdout.readline() for worker in workers if worker.stdout is not None]
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.wait()
    if not all(ended):
        sys.exit("A shard failed.")
    return round(seconds, 3), max(map(float, ended))


def run_shards(stage: str, folder: Path, run: str, shards: list[int]) -> None:
    """Run the shards of a DAG run one after the other, as soon as the standard input ends. Print the CPU seconds."""
    logging.disable(logging.WARNING)
    use_malloc()
    _use_mlflow(folder)
    from airflow_mlops.core.calls import Provenance
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.stages.context import StepContext

    step, spec = SHARDED[stage](folder)
    print("ready", flush=True)
    sys.stdin.read()
    started = time.process_time()
    for shard in shards:
        place = Provenance(dag_id="scale", run_id=run, task_id=stage, map_index=shard)
        context = StepContext(ArtifactStore(f"file://{folder}/store"), f"results/{run}/{shard}.json", provenance=place)
        step(spec.model_copy(update={"shard": shard, "shards": SHARDS}), context)
    print(round(time.process_time() - started, 3), flush=True)


def score_in_shards(folder: Path) -> tuple[Callable[..., Any], Any]:
    import mlflow  # noqa: F401 - loaded before the clock runs
    import onnxruntime  # noqa: F401

    from airflow_mlops.stages.score import step
    from airflow_mlops.stages.score.spec import ScoreSpec

    _open_mlflow()
    return step.run, ScoreSpec(model=MODEL, dataset=_reference(folder, "rows"), name="scale_predictions")


def score_peer(folder: Path) -> Callable[[], Any]:
    import numpy as np
    import onnxruntime
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.registry import versions
    from airflow_mlops.registry.client import connect

    client = connect(MLflowTarget(), from_environment)
    champion = versions.champion(client, MODEL)
    assert champion is not None
    session = onnxruntime.InferenceSession(versions.download(client, champion) / "model.onnx")
    (path,) = _paths(folder, "rows")

    def values(column: pa.Array) -> Any:
        if pa.types.is_string(column.type):
            return np.asarray(column.to_pylist(), object)[:, None]
        return column.to_numpy(zero_copy_only=False).astype(np.float32)[:, None]

    def work() -> None:
        with (
            pq.ParquetFile(path) as file,
            pq.ParquetWriter(
                folder / "peer.parquet", file.schema_arrow.append(pa.field("score", pa.float32())), compression="zstd"
            ) as out,
        ):
            for batch in file.iter_batches(65_536):
                found = session.run(None, {item.name: values(batch[item.name]) for item in session.get_inputs()})
                out.write_batch(batch.append_column("score", pa.array(np.asarray(found[1])[:, -1].astype(np.float32))))

    return work


def evaluate(folder: Path) -> Callable[[], Any]:
    step, spec = evaluate_in_shards(folder)
    return lambda: step(spec, _context(folder))


def evaluate_in_shards(folder: Path) -> tuple[Callable[..., Any], Any]:
    import mlflow  # noqa: F401 - loaded before the clock runs
    import onnxruntime  # noqa: F401
    import sklearn.tree  # noqa: F401

    from airflow_mlops.stages.evaluate import step
    from airflow_mlops.stages.evaluate.spec import EvaluateSpec

    _open_mlflow()
    gates = [
        {"metric": "roc_auc", "better_than_champion_by": 0},
        {"metric": "log_loss", "slices": ["carrier", "origin", "x1", "x2", "x3"], "not_worse_than_champion_by": 0.01},
    ]
    spec = EvaluateSpec(
        candidates=[_reference(folder, "candidate")], dataset=_reference(folder, "held_out"), gates=gates
    )
    return step.run, spec


def profile(folder: Path) -> Callable[[], Any]:
    from airflow_mlops.stages.profile import step
    from airflow_mlops.stages.profile.spec import ProfileSpec

    spec = ProfileSpec(dataset=_reference(folder, "rows"))
    return lambda: step.run(spec, _context(folder))


def monitor(folder: Path) -> Callable[[], Any]:
    import mlflow  # noqa: F401 - loaded before the clock runs

    from airflow_mlops.stages.monitor import step
    from airflow_mlops.stages.monitor.spec import MonitorSpec

    _open_mlflow()
    spec = MonitorSpec(model=MODEL, dataset=_reference(folder, "outcomes"))
    return lambda: step.run(spec, _context(folder))


WORK: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "validate": validate,
    "training_set": training_set,
    "join_labels": join_labels,
    "score": score,
    "evaluate": evaluate,
    "profile": profile,
    "monitor": monitor,
}
SHARDED: dict[str, Callable[[Path], tuple[Callable[..., Any], Any]]] = {
    "validate": validate_in_shards,
    "join_labels": join_labels_in_shards,
    "score": score_in_shards,
    "evaluate": evaluate_in_shards,
}
PEERS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "validate": validate_peer,
    "training_set": training_set_peer,
    "join_labels": join_labels_peer,
    "score": score_peer,
}


if __name__ == "__main__":
    main()
