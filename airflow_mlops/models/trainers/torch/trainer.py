"""Train a PyTorch network on a stream of batches, with checkpoints from which a retry continues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from airflow_mlops.core import imports
from airflow_mlops.core.contract import Precision
from airflow_mlops.core.errors import ModelFormatError, SpecError, one_line
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.row_weights import RowWeights
from airflow_mlops.models.onnx import flavor
from airflow_mlops.models.trainers.base import FittedModel, TrainingData, TrainingRun
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch import batches, processes
from airflow_mlops.models.trainers.torch.checkpoint import State
from airflow_mlops.models.trainers.torch.encoding import Encoding
from airflow_mlops.models.trainers.torch.loop import Loop
from airflow_mlops.models.trainers.torch.reader import Reader
from airflow_mlops.models.trainers.torch.task import TrainingTask, find_device, gpu_memory, make_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import pyarrow as pa
    from mlflow.models import Model
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset


def fit(spec: TorchTrainerSpec, data: TrainingData, seed: int, run: TrainingRun) -> TorchModel:
    """Train the network.

    A retry continues from the last checkpoint. On a CPU with the same number of processes, the retry gives the same
    result as an uninterrupted training.

    :param spec: the trainer, with the settings of the training
    :param data: features of a sample of the rows, and labels of all rows. The training streams all rows from the
        training set
    :param seed: seed of the weights, the order of the rows and the dropout
    :param run: the training set, the checkpoint and the log functions
    :raises SpecError: the module or the device does not exist, this node has GPUs but fewer than ``processes``, or rows
        have weights and ``dataset`` is set
    :raises TrainingError: the network cannot be created or trained, its loss is infinite or NaN, or the GPU memory is
        too small
    """
    task = _task(spec, data, seed, run)
    device, count = find_device(spec.device), processes.count(spec)
    torch.manual_seed(seed)
    network = make_network(spec, task.reader)
    if count == 1:
        with gpu_memory(spec):
            loop = Loop(task, network, device, run.progress, run.log)
            loop.resume()
            loop.train()
        state = loop.state
    else:
        run.progress(f"Training in {count} processes.")
        state = processes.train(task, network, run)
    network.load_state_dict(state.best or network.state_dict())
    _log_curves(state, run)
    return TorchModel(network, task.reader, spec, state)


def assist(spec: TorchTrainerSpec, data: TrainingData, seed: int, run: TrainingRun) -> None:
    """Run this node's share of a training on several nodes. Only the first node stores the model.

    :raises TrainingError: a process of this node failed
    """
    processes.run_workers(_task(spec, data, seed, run), run)


def validation_rows(
    spec: TorchTrainerSpec, dataset: Dataset, data: TrainingData, part: str | None, columns: Sequence[str], seed: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows that the training holds out for validation.

    :param spec: the trainer
    :param dataset: the training set
    :param data: not used
    :param part: name of the split part that the training reads
    :param columns: names of the columns to read
    :param seed: seed of the training, which determines the held-out rows
    """
    return batches.validation_rows(dataset, part, columns, spec.validation, seed)


def _task(spec: TorchTrainerSpec, data: TrainingData, seed: int, run: TrainingRun) -> TrainingTask:
    reader: Reader
    if spec.dataset:
        if RowWeights.of(run.dataset) is not None:
            raise SpecError(
                "The rows of the training set have weights (Decay or `sample_weight`), but a TorchTrainer with dataset= does not use "
                "weights, because a Dataset may change the number of rows. Remove dataset=, or remove `sample_weight` and build the "
                "training set with Rolling or Expanding."
            )
        from airflow_mlops.models.trainers.torch.user_dataset import UserDataset

        reader = UserDataset(spec.dataset, spec.dataset_params, data.task, data.label, data.features, data.classes)
    else:
        reader = Encoding.learn(run.dataset, run.part, data.label, data.task, data.features, data.classes)
    return TrainingTask(spec, reader, seed, run.dataset, run.part, run.checkpoint)


def _log_curves(state: State, run: TrainingRun) -> None:
    """Log the loss curves in TensorBoard's format."""
    from torch.utils.tensorboard import SummaryWriter

    with temporary_folder("tensorboard") as folder:
        with SummaryWriter(folder) as writer:
            for step, loss in enumerate(state.losses):
                writer.add_scalar("loss/step", loss, step)
            for epoch, found in enumerate(state.epochs):
                for name, value in found.items():
                    writer.add_scalar(f"loss/{name}", value, epoch)
        run.log_files(folder, "tensorboard")


class TorchModel(FittedModel):
    """A trained network with the reader that encodes its inputs."""

    def __init__(
        self,
        network: torch.nn.Module,
        reader: Reader,
        spec: TorchTrainerSpec,
        state: State,
    ) -> None:
        self.network = network.cpu().eval()
        self.reader = reader
        self.spec = spec
        self.state = state
        paths = {"module": spec.module, "dataset": spec.dataset}
        self.sources = {path: imports.load(path, what) for what, path in paths.items() if path}
        self.name = spec.label
        fields = spec.model_dump(exclude={"kind", "name", "serialization", "trusted_types", "params", "dataset_params"})
        self.params = {
            **fields,
            **spec.params,
            **spec.dataset_params,
            "epochs_run": len(state.epochs),
            "best_epoch": state.best_epoch + 1,
        }
        self.packages = ["torch"]
        self._exported: bytes | None = None

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        import pyarrow as pa

        inputs = self.reader.inputs(pa.Table.from_pandas(frame, preserve_index=False))
        with torch.inference_mode():
            found = self.network(*map(torch.from_numpy, inputs)).double()
        if self.reader.task == "regression":
            mean, scale = self.reader.label
            return np.asarray(found.numpy() * scale + mean)
        return np.asarray(torch.softmax(found, dim=1).numpy())

    def to_onnx(self, data: TrainingData, precision: Precision = "float32") -> bytes:
        from airflow_mlops.models.trainers.torch.onnx import export

        if precision != "float32":
            raise ModelFormatError(
                f"{self.name} cannot be exported in {precision}, because networks are exported only in float32."
            )
        if self._exported is None:
            try:
                self._exported = export(self.network, self.reader)
            except Exception as error:
                raise ModelFormatError(
                    f"{self.name} cannot be exported to ONNX, which scoring needs: {one_line(error, 300)}. Change the "
                    "`forward` of the module so that torch.export supports it for any number of rows."
                ) from error
        return self._exported

    def save(self, folder: Path, model: Model, requirements: list[str], example: pd.DataFrame) -> None:
        flavor.save(folder, model, requirements, self._exported or b"")
        # Only the weights are stored, so torch.load(weights_only=True) can load them without running code.
        torch.save(self.network.state_dict(), folder / "weights.pt")
