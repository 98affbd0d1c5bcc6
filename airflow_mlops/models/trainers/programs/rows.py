"""Write the training rows for a program, and make the parameters that name the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.models.trainers.base import TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import ProgramTrainerSpec
from airflow_mlops.models.trainers.validation import held_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write(
    spec: ProgramTrainerSpec, data: TrainingData, seed: int, run: TrainingRun | None, folder: Path
) -> dict[str, Any]:
    """Write the training rows as Parquet files into ``folder``.

    A file has the features (numbers as doubles, text with ``""`` for missing values), the label and, if the rows have
    weights, a column of weights.

    :param spec: the trainer
    :param data: the rows to fit a model to
    :param seed: seed of the training
    :param run: the training set, whose times or groups determine the validation rows; ``None`` for random rows
    :return: the parameters of the program: the parameters of the trainer, and parameters that the training adds
    :raises TrainingError: no row is left for training or for validation
    """
    dataset, part = (run.dataset, run.part) if run is not None else (None, None)
    aside, how = held_out(dataset, part, len(data.labels), spec.validation, seed, otherwise="set validation=0")
    columns = [feature.name for feature in data.features]
    weight = None
    if data.weights is not None:
        weight = "sample_weight"
        while weight in {*columns, data.label}:
            weight += "_"
    paths = {"train_path": folder / "train.parquet"}
    _write(data, ~aside, weight, paths["train_path"])
    if spec.validation:
        paths["validation_path"] = folder / "validation.parquet"
        _write(data, aside, weight, paths["validation_path"])
        if run is not None:
            run.progress(f"{int(aside.sum()):,} rows are held out for validation ({how}).")
    contract = {
        "task": data.task,
        "label": data.label,
        "features": [feature.model_dump() for feature in data.features],
        "classes": data.classes,
        "positive": data.positive,
    }
    return {
        **spec.params,
        **{name: str(path) for name, path in paths.items()},
        "contract": json.dumps(contract),
        "seed": seed,
        **({} if weight is None else {"sample_weight": weight}),
    }


def _write(data: TrainingData, chosen: NDArray[np.bool_], weight: str | None, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(data.frame.loc[chosen], preserve_index=False)
    table = table.append_column(data.label, pa.array(data.labels[chosen]))
    if weight is not None and data.weights is not None:
        table = table.append_column(weight, pa.array(data.weights[chosen]))
    pq.write_table(table, file)
