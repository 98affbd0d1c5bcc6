"""The description of one training, from which every training process creates the same network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError, one_line
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch.network import TabularNetwork
from airflow_mlops.models.trainers.torch.reader import Reader

if TYPE_CHECKING:
    from airflow_mlops.data.datasets import Dataset


@dataclass(frozen=True)
class TrainingTask:
    """The trainer, the data and the checkpoint of one training.

    :param spec: the trainer
    :param reader: converts rows to the inputs of the network
    :param seed: seed of the training
    :param dataset: the training set
    :param part: name of the split part to train on, such as ``train``; ``None`` for all rows
    :param checkpoint: key of the checkpoint in the artifact store
    """

    spec: TorchTrainerSpec
    reader: Reader
    seed: int
    dataset: Dataset
    part: str | None
    checkpoint: str


def make_network(spec: TorchTrainerSpec, reader: Reader) -> torch.nn.Module:
    """Create the untrained network.

    :param spec: the trainer, with the import path and the ``params`` of the network
    :param reader: the reader, which determines the numbers of inputs and outputs
    :raises SpecError: the module does not exist, or does not accept the parameters
    :raises TrainingError: the module does not return a ``torch.nn.Module``
    """
    make: Any = imports.load(spec.module, "module") if spec.module else TabularNetwork
    try:
        network = make(**reader.shape, **spec.params)
    except TypeError as error:
        arguments = "".join(f"{name}, " for name in reader.shape)
        raise SpecError(
            f"The network {spec.module or 'TabularNetwork'!r} cannot be created with params={spec.params}: {error}. It is "
            f"called with {arguments}and the trainer's `params` as keyword arguments."
        ) from None
    if not isinstance(network, torch.nn.Module):
        raise TrainingError(
            f"The module {spec.module!r} returned an object of type {type(network).__name__}, but it must return a "
            "torch.nn.Module."
        )
    return network


def find_device(name: str, gpu: int = 0) -> torch.device:
    """Return the device to train on.

    :param name: ``auto``, ``cpu`` or ``cuda``
    :param gpu: index of the GPU, from 0
    :raises SpecError: ``name`` is ``cuda``, but PyTorch finds no GPU
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError(
            "The trainer has device='cuda', but PyTorch finds no GPU. Use an image with CUDA and request a GPU (gpus=1), "
            "or set device='auto'."
        )
    return torch.device("cuda", gpu)


@contextmanager
def gpu_memory(spec: TorchTrainerSpec) -> Iterator[None]:
    """Return a context manager that replaces PyTorch's error about the GPU memory with a clear error.

    :param spec: the trainer, whose settings the error names
    :raises TrainingError: the GPU memory is too small for the network or a batch
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise TrainingError(
            f"The GPU memory is too small for the network and batches of {spec.batch_size:,} rows "
            f"({one_line(error, 300)}). Use a smaller `batch_size` and a larger `accumulate`, or a smaller network."
        ) from None
