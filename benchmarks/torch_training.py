"""Compare TorchTrainer with a hand-written loop: same network, optimizer, batches, precision and number of epochs.

``python -m benchmarks.torch_training [--rows N] [--epochs N] [--batch N] [--precision P] [--repeat N]``, on a GPU if there is
one. Both read the same Parquet file with 12 numbers and 3 texts:

- ``loop``: pandas reads the file. Numbers are standardised and texts encoded in memory. A loop takes slices of a
  permutation, copies them to the device and makes a step. The loss is read back once per step. There is no checkpoint.
- ``ours``: TorchTrainer's fit. Row groups are streamed, encoded and shuffled in each epoch, with a checkpoint every 500 steps.

Each measurement runs in its own process and starts after the imports. The best repetition counts. The throughput is the mean
over all epochs; ``with reading`` includes the time before the first step. Neither process imports Airflow. The last line of
the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

NUMBERS = [f"x{n}" for n in range(12)]
TEXTS = {"carrier": 16, "origin": 3, "dest": 105}
LABEL, HIDDEN, TARGET = "late", [256, 128], 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--precision", choices=("32", "bf16", "16"), default="32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=("loop", "ours"), help=argparse.SUPPRESS)
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
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as folder:
        options = ["--folder", folder]
        for name in ("rows", "epochs", "batch", "precision"):
            options += [f"--{name}", str(getattr(arguments, name))]
        child(*options, "--prepare")
        runs: dict[str, list[dict[str, Any]]] = {"loop": [], "ours": []}
        for _ in range(arguments.repeat):
            for way, found in runs.items():
                found.append(json.loads(child(*options, "--measure", way).splitlines()[-1]))
    best = {way: min(found, key=lambda run: run["training_seconds"]) for way, found in runs.items()}
    print(f"{'':8}{'rows/s':>12}{'with reading':>14}{'loss':>9}{'peak MB':>9}{'GPU busy':>10}")
    for way, run in best.items():
        busy = "" if run["gpu_utilisation"] is None else f"{run['gpu_utilisation']:.0%}"
        print(
            f"  {way:6}{run['rows_per_second']:12,.0f}{run['rows_per_second_with_reading']:14,.0f}"
            f"{run['loss']:9.4f}{run['peak_mb']:9,}{busy:>10}"
        )
    ratio = round(best["ours"]["rows_per_second"] / best["loop"]["rows_per_second"], 3)
    print(f"\nTorchTrainer trains at {ratio:.2f} times the loop's throughput; the target is {TARGET}.\n")
    known = {name: getattr(arguments, name) for name in ("rows", "epochs", "batch", "precision")}
    figures = {"benchmark": "torch_training", **known, **best, "ratio": ratio, "target": TARGET, "met": ratio >= TARGET}
    print(json.dumps(figures))


def child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.torch_training", *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def prepare(folder: Path, rows: int) -> None:
    """Write the training set. The loop reads its Parquet file as well."""
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.data.datasets import DatasetWriter
    from airflow_mlops.data.store import ArtifactStore

    random = np.random.default_rng(0)
    with DatasetWriter(ArtifactStore(f"file://{folder}/store"), "flights") as writer:
        for start in range(0, rows, 200_000):
            count = min(200_000, rows - start)
            columns = {name: random.normal(10, 3, count) for name in NUMBERS}
            texts = {name: random.integers(0, size, count) for name, size in TEXTS.items()}
            signal = sum(columns.values()) - 120 + 4 * (texts["carrier"] % 3) + random.normal(0, 5, count)
            columns |= {name: np.char.add(name[:2], codes.astype(str)) for name, codes in texts.items()}
            writer.write(pa.table({**columns, LABEL: signal > 4}), "train")
        (folder / "ref.json").write_text(writer.commit()[0].ref.model_dump_json())


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    way = loop if arguments.measure == "loop" else ours
    with Utilisation() as utilisation:
        started = time.perf_counter()
        training, loss = way(arguments)
        whole = time.perf_counter() - started
    assert "airflow" not in sys.modules
    rows = arguments.rows * arguments.epochs
    return {
        "training_seconds": round(training, 3),
        "rows_per_second": round(rows / training),
        "rows_per_second_with_reading": round(rows / whole),
        "loss": loss,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "gpu_utilisation": utilisation.mean,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def loop(arguments: argparse.Namespace) -> tuple[float, float]:
    """Train with a hand-written loop; return the seconds and the loss."""
    import numpy as np
    import pandas as pd
    import torch

    from airflow_mlops.models.trainers.torch.network import TabularNetwork

    files = sorted(arguments.folder.glob("store/**/*.parquet"))
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    values = frame[NUMBERS].to_numpy(np.float32)
    missing = np.isnan(values)
    values = np.where(missing, 0, (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0))
    numbers = torch.from_numpy(np.concatenate([values, missing], axis=1).astype(np.float32))
    texts = torch.from_numpy(
        np.stack([pd.factorize(frame[name], sort=True)[0] + 1 for name in TEXTS], 1).astype(np.int64)
    )
    labels = torch.from_numpy(frame[LABEL].to_numpy(np.int64))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        numbers, texts, labels = numbers.pin_memory(), texts.pin_memory(), labels.pin_memory()
    torch.manual_seed(0)
    network = TabularNetwork(2 * len(NUMBERS), [size + 1 for size in TEXTS.values()], 2, HIDDEN).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.01)
    kind = {"bf16": torch.bfloat16, "16": torch.float16}.get(arguments.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=arguments.precision == "16")
    criterion = torch.nn.CrossEntropyLoss()
    started = time.perf_counter()
    loss = 0.0
    for _ in range(arguments.epochs):
        total = 0.0
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), arguments.batch):
            rows = order[start : start + arguments.batch]
            x, t, y = (values[rows].to(device, non_blocking=True) for values in (numbers, texts, labels))
            with torch.autocast(device.type, kind, enabled=kind is not None):
                found = network(x, t)
            one = criterion(found.float(), y)
            scaler.scale(one).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            total += one.item() * len(rows)
        loss = total / len(labels)
    return time.perf_counter() - started, loss


def ours(arguments: argparse.Namespace) -> tuple[float, float]:
    """Train with TorchTrainer; return the seconds and the loss."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from airflow_mlops.core.references import DatasetRef
    from airflow_mlops.data.datasets import open_dataset
    from airflow_mlops.data.store import ArtifactStore
    from airflow_mlops.models.inputs import feature_columns
    from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
    from airflow_mlops.models.trainers.spec import TorchTrainerSpec
    from airflow_mlops.models.trainers.torch import loop as torch_loop
    from airflow_mlops.models.trainers.torch import trainer as torch
    from airflow_mlops.trainers import TorchTrainer

    ref = DatasetRef.model_validate_json((arguments.folder / "ref.json").read_text())
    dataset = open_dataset(ArtifactStore(f"file://{arguments.folder}/store"), ref)
    dataset.verify("train")
    features = feature_columns(dataset.schema, [*NUMBERS, *TEXTS])
    empty = pa.table({})
    data = TrainingData("binary", LABEL, features, empty, pd.DataFrame(), np.zeros(0), [0, 1])
    spec = TorchTrainerSpec.model_validate(
        TorchTrainer(
            params={"hidden": HIDDEN},
            epochs=arguments.epochs,
            batch_size=arguments.batch,
            precision=arguments.precision,
            validation=0.0,
            patience=None,
            # The loop uses one GPU.
            processes=1,
        )
    )
    seconds: list[float] = []
    train = torch_loop.Loop.train

    def timed(self: torch_loop.Loop) -> None:
        started = time.perf_counter()
        train(self)
        seconds.append(time.perf_counter() - started)

    torch_loop.Loop.train = timed  # type: ignore[method-assign]
    run = TrainingRun(
        dataset=dataset,
        part="train",
        checkpoint=f"checkpoints/{time.monotonic_ns()}.pt",
        progress=lambda message: None,
        log=lambda epoch, metrics: None,
        log_files=lambda folder, name: None,
    )
    model = torch.fit(spec, data, 0, run)
    return seconds[0], model.state.epochs[-1]["train_loss"]


class Utilisation:
    """Mean utilisation of the first GPU inside the block, measured by nvidia-smi."""

    def __init__(self) -> None:
        self.mean: float | None = None
        self._process: subprocess.Popen[str] | None = None
        self._seen: list[float] = []

    def __enter__(self) -> Utilisation:
        command = [
            "nvidia-smi",
            "-i",
            "0",
            "--query-gpu=utilization.gpu",
            "--format=csv,noheader,nounits",
            "-lms",
            "100",
        ]
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            return self
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._seen = [float(line) / 100 for line in self._process.stdout if line.strip().isdigit()]

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._thread.join()
            self.mean = round(sum(self._seen) / len(self._seen), 3) if self._seen else None


if __name__ == "__main__":
    main()
