"""The description of one training, from which every process makes the same network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from airflow_mlops.core import imports
from airflow_mlops.core.errors import SpecError, TrainingError
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch.network import TabularNetwork
from airflow_mlops.models.trainers.torch.reader import Reader

if TYPE_CHECKING:
    from airflow_mlops.data.datasets import Dataset


@dataclass(frozen=True)
class TrainingTask:
    """What to train, and on which data.

    :param part: the part to train on
    :param checkpoint: key in the dataset's store
    """

    spec: TorchTrainerSpec
    reader: Reader
    seed: int
    dataset: Dataset
    part: str
    checkpoint: str


def make_network(spec: TorchTrainerSpec, reader: Reader) -> torch.nn.Module:
    """Make the untrained network.

    :raises SpecError: the module does not exist, or does not accept the parameters
    :raises TrainingError: the result is not a network
    """
    make: Any = imports.load(spec.module, "module") if spec.module else TabularNetwork
    try:
        network = make(**reader.shape, **spec.params)
    except TypeError as error:
        arguments = "".join(f"{name}, " for name in reader.shape)
        raise SpecError(
            f"The network {spec.module or 'TabularNetwork'} cannot be made with {spec.params}: {error}. Its arguments "
            f"are {arguments}and the trainer's params."
        ) from None
    if not isinstance(network, torch.nn.Module):
        raise TrainingError(f"{spec.module!r} made a {type(network).__name__}, not a torch.nn.Module.")
    return network


def find_device(name: str, gpu: int = 0) -> torch.device:
    """The device to train on.

    :param name: ``auto``, ``cpu`` or ``cuda``
    :param gpu: which of several GPUs
    :raises SpecError: ``cuda`` is required, but there is no GPU
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError("device='cuda' is set, but PyTorch finds no GPU: use the CUDA image and gpus=1.")
    return torch.device("cuda", gpu)
