"""Batch scoring of 1,000,000 rows, from one Parquet file into another, against MLflow's pyfunc.

``python -m benchmarks.score [--rows N] [--repeat N] [--models NAME ...]``. Every measurement runs
in its own process, with imports and model loaded before the time is taken. The best repetition counts. The last line is JSON.
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
from pathlib import Path

WAYS = {
    "ours": "ScoreOperator's step: verified, streamed, scored by ONNX, with score, version, time and latency of each row",
    "pyfunc": "MLflow: read_parquet(), load_model().predict(), to_parquet()",
}
MODELS = {
    "LogisticRegression": ("sklearn.linear_model.LogisticRegression", {"max_iter": 200}),
    "HistGradientBoostingClassifier": ("sklearn.ensemble.HistGradientBoostingClassifier", {}),
    "GradientBoostingClassifier": ("sklearn.ensemble.GradientBoostingClassifier", {}),
    "RandomForestClassifier": ("sklearn.ensemble.RandomForestClassifier", {"min_samples_leaf": 5}),
    "MLPClassifier": ("sklearn.neural_network.MLPClassifier", {"max_iter": 20}),
    "SVR": ("sklearn.svm.SVR", {"C": 0.5}),
    "Ridge": ("sklearn.linear_model.Ridge", {}),
    "HistGradientBoostingRegressor": ("sklearn.ensemble.HistGradientBoostingRegressor", {}),
    "RandomForestRegressor": ("sklearn.ensemble.RandomForestRegressor", {"min_samples_leaf": 5}),
}
NUMBERS = [f"x{n}" for n in range(8)]
TEXTS = {"carrier": 16, "origin": 3, "dest": 105}
TRAINING_ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--measure", nargs=3, metavar=("WAY", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
    elif arguments.prepare:
        prepare(Path(arguments.prepare), arguments.models, arguments.rows)
    else:
        compare(arguments.models, arguments.rows, arguments.repeat)


def compare(models: list[str], rows: int, repeat: int) -> None:
    """Measure both variants alternately with every model, and print a table."""
    print(f"Scoring {rows:,} rows x {len(NUMBERS)} numbers and {len(TEXTS)} texts, best of {repeat}:")
    for way, text in WAYS.items():
        print(f"  {way:7} {text}")
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        print(f"Training {len(models)} models...", flush=True)
        child("--prepare", folder, "--rows", str(rows), "--models", *models)
        print(
            f"\n{'':32}{'seconds':>16}{'peak MB':>16}\n{'':32}{'ours':>8}{'pyfunc':>8}{'ours':>8}{'pyfunc':>8}   speed"
        )
        figures = {}
        for model in models:
            best: dict[str, dict[str, float]] = {}
            for _ in range(repeat):
                for way in WAYS:
                    found = json.loads(child("--measure", way, model, folder).splitlines()[-1])
                    if way not in best or found["seconds"] < best[way]["seconds"]:
                        best[way] = found
            ours, pyfunc = best["ours"], best["pyfunc"]
            speed = round(pyfunc["seconds"] / ours["seconds"], 2)
            print(
                f"{model:32}{ours['seconds']:8.2f}{pyfunc['seconds']:8.2f}{ours['peak_mb']:8.0f}{pyfunc['peak_mb']:8.0f}"
                f"   {speed:.2f}   {ours['engine']}",
                flush=True,
            )
            figures[model] = {**best, "speed": speed}
    print(json.dumps({"benchmark": "score", "rows": rows, "models": figures}))


def child(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.score", *arguments]
    # Output is captured because of many warnings; it is shown after a failure.
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return done.stdout


def prepare(folder: Path, models: list[str], rows: int) -> None:
    """Train every model with the step of TrainOperator, and write the rows to score."""
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.registry.client import connect
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.train import step as train
    from airflow_mlops.stages.train.spec import TrainSpec

    os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps(
        {"conn_type": "mlflow", "host": f"sqlite:///{folder}/mlflow.db"}
    )
    # Without a server MLflow writes its files to the working directory.
    os.chdir(folder)
    store = ArtifactStore(f"file://{folder}/store")
    sets = {}
    for task in ("binary", "regression"):
        details = {"label": "label", "task": task, "features": [*NUMBERS, *TEXTS], "timestamp": None, "keys": ["id"]}
        with DatasetWriter(store, task) as writer:
            for part, seed in (("train", 1), ("test", 2)):
                writer.write(data(TRAINING_ROWS, seed, task), part)
            sets[task] = writer.commit(details=details)[0].ref
    client = connect(MLflowTarget(), from_environment)
    for name in models:
        estimator, params = MODELS[name]
        task = "binary" if name.endswith(("Classifier", "LogisticRegression")) else "regression"
        spec = TrainSpec(model=name, dataset=sets[task], trainer={"estimator": estimator, "params": params})
        made = train.run(spec, StepContext(store, key=f"results/{name}.json")).candidate
        client.set_registered_model_alias(name, "champion", str(made.version))
    with DatasetWriter(store, "rows") as writer:
        for first in range(0, rows, 100_000):
            writer.write(data(min(100_000, rows - first), 3 + first, None))
        found = writer.commit(details={"keys": ["id"], "timestamp": None})[0]
    (folder / "rows.json").write_text(found.ref.model_dump_json())
    (folder / "rows.txt").write_text(store.path(found.files[0].path))


def data(rows: int, seed: int, task: str | None):  # noqa: ANN201 - a pyarrow.Table
    """Numbers, some of them missing, and texts; with a label that depends on both if ``task`` is given."""
    import numpy as np
    import pyarrow as pa

    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, len(NUMBERS)))
    codes = {name: np.minimum(random.zipf(1.4, rows) - 1, values - 1) for name, values in TEXTS.items()}
    columns = {"id": pa.array(np.arange(rows))}
    columns |= {name: pa.array(x[:, n], mask=random.random(rows) < 0.01) for n, name in enumerate(NUMBERS)}
    columns |= {
        name: pa.DictionaryArray.from_arrays(code, [f"{name[0].upper()}{n:02}" for n in range(TEXTS[name])]).cast(
            pa.string()
        )
        for name, code in codes.items()
    }
    if task is not None:
        signal = x[:, 0] - x[:, 1] * x[:, 2] + 0.3 * (codes["carrier"] % 4) + random.logistic(size=rows)
        columns["label"] = pa.array(signal > 0.5 if task == "binary" else signal)
    return pa.table(columns)


def measure(way: str, model: str, folder: str) -> None:
    """Score once in this process, and print time and memory."""
    from airflow_mlops.core.connections import from_environment
    from airflow_mlops.core.references import MLflowTarget
    from airflow_mlops.registry import versions as models
    from airflow_mlops.registry.client import connect

    logging.disable(logging.WARNING)
    os.environ["AIRFLOW_CONN_MLFLOW_DEFAULT"] = json.dumps(
        {"conn_type": "mlflow", "host": f"sqlite:///{folder}/mlflow.db"}
    )
    os.chdir(folder)
    client = connect(MLflowTarget(), from_environment)
    champion = models.champion(client, model)
    assert champion is not None
    with tempfile.TemporaryDirectory(dir=folder) as out:
        found = {"ours": ours, "pyfunc": pyfunc}[way](
            champion, models.download(client, champion), Path(folder), Path(out)
        )
    found["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(found))


class Watch:
    """Measures elapsed time and the processor time of all threads since its creation."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"seconds": round(wall, 3), "cpu_seconds": round(cpu, 3)}


def ours(champion, files: Path, folder: Path, out: Path) -> dict:  # noqa: ANN001
    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.models.onnx.scorer import OnnxModel
    from airflow_mlops.stages.context import StepContext
    from airflow_mlops.stages.score.step import score

    rows = DatasetRef.model_validate_json((folder / "rows.json").read_text())
    model = OnnxModel.load(files)
    context = StepContext(ArtifactStore(f"file://{out}"))
    watch = Watch()
    dataset = open_dataset(ArtifactStore(f"file://{folder}/store"), rows)
    written = score([dataset], model, champion, name="predictions", part=None, window=None, context=context)
    taken = watch.read()
    assert written.rows == rows.rows
    return {**taken, "engine": model.engine}


def pyfunc(champion, files: Path, folder: Path, out: Path) -> dict:  # noqa: ANN001
    import mlflow.pyfunc
    import pandas as pd
    import pyarrow.parquet  # noqa: F401 - loaded before the clock runs

    model = mlflow.pyfunc.load_model(str(files))
    file = (folder / "rows.txt").read_text()
    watch = Watch()
    rows = pd.read_parquet(file)
    rows["prediction"] = model.predict(rows[[*NUMBERS, *TEXTS]])
    rows.to_parquet(out / "predictions.parquet", index=False)
    return {**watch.read(), "engine": "mlflow.pyfunc"}


if __name__ == "__main__":
    main()
