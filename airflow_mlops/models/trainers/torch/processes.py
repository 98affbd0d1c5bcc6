"""Train one network in several processes, started by torchrun on this node or by Kubeflow Trainer on several nodes.

torchrun starts :mod:`airflow_mlops.models.trainers.torch.worker` once per GPU. The processes send messages and
metrics over a socket, and write the trained weights to the checkpoint.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import torch

from airflow_mlops.core.errors import MLOpsError, SpecError, SpillError, TrainingError
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.core.termination import error_in
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch import launch
from airflow_mlops.models.trainers.torch.checkpoint import State, read_checkpoint
from airflow_mlops.models.trainers.torch.task import TrainingTask

if TYPE_CHECKING:
    from airflow_mlops.models.trainers.base import TrainingRun

# Time in seconds in which the training processes must write a checkpoint, unless the pod sets another time. By default,
# Kubernetes kills a pod 30 s after SIGTERM.
_GRACE_SECONDS = 30.0
# The last seconds of the grace period, which are reserved for killing processes that have not ended.
_KILL_SECONDS = 3.0
_POLL_SECONDS = 0.2
# Linux limits the path of a socket to 108 bytes, including a zero byte at the end.
_LONGEST_PATH = 107


def nodes() -> int:
    """Return the number of nodes that train together. Kubeflow Trainer sets this number for torchrun."""
    return int(os.environ.get("PET_NNODES") or 1)


def count(spec: TorchTrainerSpec) -> int:
    """Return the number of training processes, summed over all nodes.

    :raises SpecError: this node has GPUs, but fewer than ``processes`` of the trainer
    """
    return _on_this_node(spec) * nodes()


def _on_this_node(spec: TorchTrainerSpec) -> int:
    gpus = torch.cuda.device_count() if spec.device != "cpu" else 0
    # NCCL refuses two processes on one GPU.
    if gpus and spec.processes and spec.processes > gpus:
        raise SpecError(
            f"The trainer has processes={spec.processes}, but PyTorch finds only {gpus} GPU{'s' if gpus > 1 else ''}, and "
            f"each process needs its own. Request more GPUs (gpus={spec.processes}), remove `processes`, or set "
            "device='cpu'."
        )
    return spec.processes or max(1, gpus)


def train(task: TrainingTask, network: torch.nn.Module, run: TrainingRun) -> State:
    """Train in several processes, and load the resulting weights into ``network``.

    :param task: the training that every process runs
    :param network: the untrained network, which is changed
    :param run: the log functions, which this process calls for the training processes
    :return: the progress of the training
    :raises SpecError: this node has GPUs, but fewer than ``processes`` of the trainer
    :raises SpillError: the path of ``TMPDIR`` is too long for a socket
    :raises MLOpsError: a training process raised this error
    :raises TrainingError: a training process ended without an error message, for example because memory ran out, or the
        processes did not write the checkpoint
    """
    run_workers(task, run)
    saved = read_checkpoint(task.dataset.store, task.checkpoint)
    if saved is None:
        raise TrainingError(
            f"The training processes ended without writing the checkpoint {task.checkpoint!r}. The log above shows their "
            "errors."
        )
    network.load_state_dict(saved["network"])
    return State(**saved["state"])


def run_workers(task: TrainingTask, run: TrainingRun) -> None:
    """Run the training processes of this node with torchrun.

    :param task: the training that every process runs
    :param run: the log functions, which this process calls for the training processes
    :raises SpecError: this node has GPUs, but fewer than ``processes`` of the trainer
    :raises SpillError: the path of ``TMPDIR`` is too long for a socket
    :raises MLOpsError: a training process raised this error
    :raises TrainingError: a training process ended without an error message, for example because memory ran out
    """
    with temporary_folder("torch") as folder, _Messages(f"{folder}/messages", run) as messages:
        file = folder / "task"
        file.write_bytes(pickle.dumps((messages.address, task)))
        on_this_node = _on_this_node(task.spec)
        # By default, torchrun leaves a folder for logs in TMPDIR.
        logs = f"--log-dir={folder}/logs"
        command = [sys.executable, "-m", launch.__name__, f"--nproc-per-node={on_this_node}", logs]
        if nodes() == 1:
            command += ["--standalone", "--local-addr=127.0.0.1"]
        threads = str(max(1, torch.get_num_threads() // on_this_node))
        process = subprocess.Popen(  # noqa: S603
            [*command, str(file)],
            env={
                "OMP_NUM_THREADS": threads,
                # The output of a user's network then appears in the log immediately.
                "PYTHONUNBUFFERED": "1",
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        )
        try:
            # Once the first node has stored the result, the processes of this node are no longer needed.
            while process.poll() is None and messages.run_error is None and not run.finished():
                time.sleep(_POLL_SECONDS)
        finally:
            _end(process)
        messages.close()
    if messages.run_error is not None:
        raise messages.run_error
    if messages.error is not None:
        raise messages.error
    if process.returncode and not run.finished():
        raise TrainingError(
            f"torchrun ended with exit status {process.returncode}, because a training process failed. The log above shows "
            "which process. Exit code -9 means that it was killed, usually because memory ran out."
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # torchrun forwards SIGTERM to the training processes, which write a checkpoint.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            grace = float(os.environ.get("MLOPS_TERMINATION_GRACE", _GRACE_SECONDS))
            process.wait(max(grace - _KILL_SECONDS, 1.0))
    if process.poll() is None:
        process.kill()
        process.wait()


class _Messages:
    """Receives the messages of the training processes in threads.

    :ivar error: the error of a training process; ``None`` if no process failed
    :ivar run_error: the exception that a log function of ``run`` raised; ``None`` if none was raised
    """

    def __init__(self, address: str, run: TrainingRun) -> None:
        self.address = address
        self.error: MLOpsError | None = None
        self.run_error: Exception | None = None
        self._run = run
        if len(os.fsencode(address)) > _LONGEST_PATH:
            raise SpillError(
                f"The training processes cannot be started, because {address} is longer than the {_LONGEST_PATH} bytes that the path "
                "of a socket may have. Set TMPDIR to a folder with a shorter path."
            )
        self._listener = Listener(address, "AF_UNIX")
        self._threads: list[threading.Thread] = []
        self._open = True

    def __enter__(self) -> _Messages:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Receive the remaining messages, then end the threads."""
        if not self._open:
            return
        self._open = False
        # accept() blocks until a connection is made, so a new connection ends it.
        with suppress(OSError), Client(self.address, "AF_UNIX"):
            pass
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._open:
            self._start(self._read, self._listener.accept())

    def _read(self, connection: Connection) -> None:
        with connection, suppress(EOFError, OSError):
            while True:
                kind, *values = connection.recv()
                if kind == "error":
                    self.error = self.error or error_in(*values)
                elif self.run_error is None:
                    try:
                        (self._run.log if kind == "metrics" else self._run.progress)(*values)
                    except Exception as error:  # noqa: BLE001 - raised again by run_workers
                        self.run_error = error
