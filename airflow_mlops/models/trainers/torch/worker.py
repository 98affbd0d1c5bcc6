"""Entry point of a training process.

:mod:`airflow_mlops.models.trainers.torch.launch` forks the process, which runs this file as a script.
"""

from __future__ import annotations

import os
import pickle
import sys
from multiprocessing.connection import Client, Connection
from pathlib import Path

import torch
from torch import distributed

from airflow_mlops.core import resource_errors
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.core.termination import described
from airflow_mlops.models.trainers.torch.loop import Loop
from airflow_mlops.models.trainers.torch.task import TrainingTask, find_device, gpu_memory, make_network

# A process that frees the process group holds Python's GIL while it waits for gloo's thread. This thread may wait for
# the GIL, which is a deadlock (https://github.com/pytorch/pytorch/issues/56297). Objects that refer to the process
# group are therefore kept until the process ends.
_never_freed: list[Loop] = []


def main(file: str) -> int:
    """Train the network that the pickled ``file`` describes.

    :param file: the file, which contains the address for messages and the :class:`TrainingTask`
    :return: the exit status of the process
    """
    # The process that started torchrun wrote the file to a folder that only its own user can read.
    address, task = pickle.loads(Path(file).read_bytes())  # noqa: S301
    with Client(address, "AF_UNIX") as parent:
        try:
            _train(task, parent)
        except Exception as error:
            shown = resource_errors.explain(error) or error
            if not isinstance(shown, MLOpsError):
                raise
            parent.send(("error", described(shown)))
            return 1
    return 0


def _train(task: TrainingTask, parent: Connection) -> None:
    device = find_device(task.spec.device, int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Gloo transfers Python objects. NCCL transfers gradients between GPUs.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        torch.manual_seed(task.seed)
        network = make_network(task.spec, task.reader)
        # All processes start with the same weights, but use different dropout.
        if rank := distributed.get_rank():
            torch.manual_seed(hash((task.seed, rank)))
        with gpu_memory(task.spec):
            loop = Loop(
                task,
                network,
                device,
                progress=lambda message: parent.send(("progress", message)),
                log=lambda epoch, metrics: parent.send(("metrics", epoch, metrics)),
            )
            _never_freed.append(loop)
            loop.resume()
            loop.train()
            loop.save()
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    # Python frees the variables of a script when the script ends, but not the variables of an imported module. The
    # training loop must not be freed, so it is stored in the variable _never_freed of the imported module.
    from airflow_mlops.models.trainers.torch import worker

    # torchrun expects that a successful process returns, and that a failed process exits with a status.
    if status := worker.main(sys.argv[1]):
        sys.exit(status)
