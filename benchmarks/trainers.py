"""Compare the trainers with bare scripts of their libraries: fit, memory, scoring, and the ONNX export.

``python -m benchmarks.trainers [--rows N] [--rounds N] [--repeat N] [--threads N] [--only NAME ...]``. All read the same Parquet file with
16 numbers (5% of each are null) and 4 texts with 5 to 500 values, and train the same number of trees on two classes, with the
newest tenth of the rows for validation and without early stopping:

- ``script``: reads the file with pandas, encodes the texts as category codes, and calls the library.
- ``trainer``: reads the training set and calls the trainer, which also writes a checkpoint every 100 rounds.

Each measurement runs in its own process and starts after the imports; the best repetition counts. On a machine with other
work, compare the CPU seconds with ``--threads 1``: threads that wait for each other use CPU time. ``score`` compares the
rows per second of the ONNX export, from Arrow columns, with those of the library's own prediction from the same columns. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NUMBERS = [f"x{n}" for n in range(16)]
TEXTS = {"carrier": 16, "origin": 5, "dest": 105, "tail": 500}
LABEL, TIME, TARGET = "late", "at", 1.1
FIT_ROWS, LEAVES = 200_000, 31
TRAINERS = ("HistGradientBoosting", "XGBoost", "LightGBM", "CatBoost")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cpus())
    parser.add_argument("--only", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("script", "trainer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.folder, arguments.rows)
    elif arguments.measure:
        print(json.dumps(measure(arguments)))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    print(__doc__)
    columns = (
        f"{'':22}{'script s':>10}{'trainer s':>11}{'ratio':>7}{'CPU ratio':>11}{'script MB':>11}{'trainer MB':>12}{'ONNX rows/s':>13}"
        f"{'library rows/s':>16}{'difference':>12}{'ONNX MB':>9}"
    )
    print(columns)
    found = {}
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        options = ["--folder", folder]
        for option in ("rows", "rounds", "threads"):
            options += [f"--{option}", str(getattr(arguments, option))]
        child(*options, "--prepare")
        for name in arguments.only:
            runs: dict[str, list[dict[str, Any]]] = {"script": [], "trainer": []}
            for _ in range(arguments.repeat):
                for way, results in runs.items():
                    results.append(json.loads(child(*options, "--only", name, "--measure", way).splitlines()[-1]))
            best = {
                way: min(results, key=lambda run: run["cpu_seconds" if arguments.threads == 1 else "fit_seconds"])
                for way, results in runs.items()
            }
            script, ours = best["script"], best["trainer"]
            ratio = round(ours["fit_seconds"] / script["fit_seconds"], 3)
            cpu_ratio = round(ours["cpu_seconds"] / script["cpu_seconds"], 3)
            found[name] = {**best, "ratio": ratio, "cpu_ratio": cpu_ratio}
            print(
                f"{name:22}{script['fit_seconds']:10.1f}{ours['fit_seconds']:11.1f}{ratio:7.2f}{cpu_ratio:11.2f}{script['peak_mb']:11,}"
                f"{ours['peak_mb']:12,}{ours['onnx_rows_per_second']:13,}{ours['library_rows_per_second']:16,}"
                f"{ours['difference']:12.1e}{ours['onnx_mb']:9.2f}",
                flush=True,
            )
    which = "cpu_ratio" if arguments.threads == 1 else "ratio"
    met = all(item[which] <= TARGET for item in found.values())
    print(
        f"\nEach trainer's fit should take at most {TARGET} times the script's time: {'met' if met else 'not met'}.\n"
    )
    known = {"rows": arguments.rows, "columns": len(NUMBERS) + len(TEXTS), "rounds": arguments.rounds}
    figures = {"benchmark": "trainers", **known, "threads": arguments.threads, **found, "target": TARGET, "met": met}
    print(json.dumps(figures))


def child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainers", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": arguments[arguments.index("--threads") + 1]},
    )
    return done.stdout


def cpus() -> int:
    return len(os.sched_getaffinity(0))


def prepare(folder: Path, rows: int) -> None:
    """Write the training set. The script reads its Parquet files as well."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore

    random = np.random.default_rng(0)
    effects = {name: random.normal(size=size) for name, size in TEXTS.items()}
    details = {
        "label": LABEL,
        "task": "binary",
        "features": [*NUMBERS, *TEXTS],
        "timestamp": TIME,
        "split": {"method": "time"},
    }
    with DatasetWriter(ArtifactStore(f"file://{folder}/store"), "flights") as writer:
        for part, total in (("train", rows), ("test", min(rows, 100_000))):
            for start in range(0, total, FIT_ROWS):
                count = min(FIT_ROWS, total - start)
                numbers = {name: random.normal(10, 3, count) for name in NUMBERS}
                codes = {name: random.integers(0, size, count) for name, size in TEXTS.items()}
                signal = sum(numbers[name] - 10 for name in NUMBERS[:4]) / 6
                signal = signal + sum(effects[name][codes[name]] for name in TEXTS) + random.logistic(size=count)
                columns = {name: pa.array(values, mask=random.random(count) < 0.05) for name, values in numbers.items()}
                columns |= {name: pa.array(np.char.add(name[:2], values.astype(str))) for name, values in codes.items()}
                at = pa.array((start + np.arange(count)) * 1_000_000, pa.timestamp("us", "UTC"))
                writer.write(pa.table({**columns, TIME: at, LABEL: signal > 0}), part)
        manifest, _ = writer.commit(details=details)
    (folder / "ref.json").write_text(manifest.ref.model_dump_json())
    parts = [str(folder / "store" / file.path) for file in manifest.files if file.part == "train"]
    (folder / "parts.json").write_text(json.dumps(parts))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    (name,) = arguments.only
    if arguments.measure == "script":
        return by_script(name, arguments.folder, arguments.rounds, arguments.threads)
    return by_trainer(name, arguments.folder, arguments.rounds, arguments.threads)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def by_script(name: str, folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    module = {"XGBoost": "xgboost", "LightGBM": "lightgbm", "CatBoost": "catboost"}.get(name, "sklearn.ensemble")
    library: Any = __import__(module, fromlist=["_"])
    parts = json.loads((folder / "parts.json").read_text())
    started, used = time.perf_counter(), time.process_time()
    frame = pd.concat([pd.read_parquet(file) for file in parts], ignore_index=True)
    held_out = (frame[TIME] >= frame[TIME].sort_values().iloc[-round(0.1 * len(frame))]).to_numpy()
    labels = frame[LABEL].to_numpy().astype(int)
    texts = list(TEXTS)
    for text in texts:
        frame[text] = frame[text].astype("category")
    rows = frame[[*NUMBERS, *texts]]
    if name == "HistGradientBoosting":
        for text in texts:
            rows = rows.assign(**{text: rows[text].cat.codes})
        library.HistGradientBoostingClassifier(max_iter=rounds, max_leaf_nodes=LEAVES, early_stopping=False).fit(
            rows, labels
        )
    elif name == "CatBoost":
        for text in texts:
            rows = rows.assign(**{text: rows[text].astype(str)})
        made = library.CatBoostClassifier(
            iterations=rounds,
            depth=6,
            max_ctr_complexity=1,
            thread_count=threads,
            verbose=False,
            allow_writing_files=False,
        )
        made.fit(
            rows[~held_out],
            labels[~held_out],
            cat_features=texts,
            eval_set=(rows[held_out], labels[held_out]),
            use_best_model=False,
        )
    else:
        for text in texts:
            rows = rows.assign(**{text: rows[text].cat.codes})
        matrix = rows.to_numpy(np.float32)
        if name == "LightGBM":
            learned = library.Dataset(matrix[~held_out], labels[~held_out], categorical_feature=list(range(16, 20)))
            measured = library.Dataset(matrix[held_out], labels[held_out], reference=learned)
            params = {"objective": "binary", "num_leaves": LEAVES, "num_threads": threads, "verbose": -1}
            library.train(params, learned, rounds, valid_sets=[measured])
        else:
            types = ["q"] * 16 + ["c"] * 4
            learned = library.QuantileDMatrix(
                matrix[~held_out], labels[~held_out], feature_types=types, enable_categorical=True
            )
            measured = library.QuantileDMatrix(
                matrix[held_out], labels[held_out], feature_types=types, enable_categorical=True, ref=learned
            )
            params = {"objective": "binary:logistic", "max_depth": 6, "nthread": threads}
            library.train(params, learned, rounds, evals=[(measured, "validation")], verbose_eval=False)
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    return {"fit_seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": peak_mb()}


def by_trainer(name: str, folder: Path, rounds: int, threads: int) -> dict[str, Any]:
    import numpy as np
    from pydantic import TypeAdapter

    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.models.inputs import frame
    from airflow_mlops.models.onnx.scorer import OnnxModel
    from airflow_mlops.models.trainers import trainer_module
    from airflow_mlops.models.trainers.base import TrainingRun
    from airflow_mlops.models.trainers.spec import AnyTrainer
    from airflow_mlops.models.training_data import SAMPLE_ROWS, new_contract, read_part
    from airflow_mlops.trainers import CatBoostTrainer, LightGBMTrainer, SklearnTrainer, XGBoostTrainer

    fields: dict[str, Any] = {"rounds": rounds, "patience": None}
    made = {
        "HistGradientBoosting": SklearnTrainer(
            "sklearn.ensemble.HistGradientBoostingClassifier",
            params={"max_iter": rounds, "max_leaf_nodes": LEAVES, "early_stopping": False},
        ),
        "XGBoost": XGBoostTrainer({"max_depth": 6, "nthread": threads}, **fields),
        "LightGBM": LightGBMTrainer({"num_leaves": LEAVES, "num_threads": threads}, **fields),
        "CatBoost": CatBoostTrainer({"depth": 6, "thread_count": threads}, **fields),
    }[name]
    spec: Any = TypeAdapter(AnyTrainer).validate_python(made)
    module = trainer_module(spec.kind)
    # Imports that the trainer would make while it is measured.
    for library in (
        (spec.library,)
        if spec.streams
        else ("sklearn.ensemble", "sklearn.compose", "sklearn.impute", "sklearn.pipeline")
    ):
        __import__(library)
    if spec.streams:
        __import__("airflow_mlops.models.trainers.boosting." + spec.library)
    __import__("pyarrow.parquet")
    store = ArtifactStore(f"file://{folder}/store")
    dataset = open_dataset(store, DatasetRef.model_validate_json((folder / "ref.json").read_text()))
    run = TrainingRun(
        dataset=dataset,
        part="train",
        checkpoint=f"checkpoints/{name}-{os.getpid()}.pt",
        progress=lambda message: None,
        log=lambda step, metrics: None,
        log_files=lambda folder, name: None,
    )
    started, used = time.perf_counter(), time.process_time()
    data = read_part(dataset, "train", SAMPLE_ROWS if spec.streams else None)
    model = module.fit(spec, data, 0, run)
    seconds, cpu, memory = time.perf_counter() - started, time.process_time() - used, peak_mb()
    test = read_part(dataset, "test")
    exported = model.to_onnx(data)
    scorer = OnnxModel(exported, new_contract(dataset, data, model))

    def speed(predict: Any) -> tuple[int, Any]:
        found, took = None, []
        for _ in range(3):
            at = time.perf_counter()
            found = predict()
            took.append(time.perf_counter() - at)
        return round(test.table.num_rows / min(took)), found

    ours, predictions = speed(lambda: scorer.predict(test.table))
    library, expected = speed(lambda: model.predict(frame(test.table, data.features)))
    return {
        "fit_seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "peak_mb": memory,
        "onnx_rows_per_second": ours,
        "library_rows_per_second": library,
        "difference": float(np.abs(predictions.probabilities - expected).max()),
        "onnx_mb": round(len(exported) / 1e6, 2),
    }


if __name__ == "__main__":
    main()
