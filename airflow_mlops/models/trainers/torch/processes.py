"""Several processes that train one network: torchrun on this node, and with others where Kubeflow Trainer made them nodes.

torchrun starts ``python -m airflow_mlops.models.trainers.torch.worker`` once a GPU. What these processes have to say comes back
over a socket; what they learned is in the checkpoint.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from airflow_mlops.core import errors as exceptions
from airflow_mlops.core.errors import MLOpsError, TrainingError
from airflow_mlops.models.trainers.spec import TorchTrainerSpec
from airflow_mlops.models.trainers.torch.loop import State, Task, read_checkpoint

if TYPE_CHECKING:
    from airflow_mlops.models.trainers.base import TrainingRun

# Kubernetes gives a pod 30 s to end.
_GRACE_SECONDS = 25.0
_LOOK_SECONDS = 0.2


def nodes() -> int:
    """How many nodes train together, as Kubeflow Trainer tells torchrun."""
    return int(os.environ.get("PET_NNODES") or 1)


def count(spec: TorchTrainerSpec) -> int:
    """How many processes train, over all nodes."""
    return _on_this_node(spec) * nodes()


def _on_this_node(spec: TorchTrainerSpec) -> int:
    gpus = torch.cuda.device_count() if spec.device != "cpu" else 0
    return spec.processes or max(1, gpus)


def train(task: Task, network: torch.nn.Module, run: TrainingRun) -> State:
    """Train in several processes, and load what they learned into ``network``.

    :raises MLOpsError: what one of them raised
    :raises TrainingError: one of them died
    """
    _torchrun(task, run)
    saved = read_checkpoint(task.dataset.store, task.checkpoint, torch.device("cpu"))
    if saved is None:
        raise TrainingError(f"The processes that trained left no checkpoint {task.checkpoint}: see the log above.")
    network.load_state_dict(saved["network"])
    return State(**saved["state"])


def assist(task: Task, run: TrainingRun) -> None:
    """Run the processes of a node that is not the first one.

    :raises MLOpsError: what one of them raised
    :raises TrainingError: one of them died
    """
    _torchrun(task, run)


def _torchrun(task: Task, run: TrainingRun) -> None:
    with tempfile.TemporaryDirectory(prefix="mlops-") as folder, _Messages(f"{folder}/messages", run) as messages:
        file = Path(folder) / "task"
        file.write_bytes(pickle.dumps((messages.address, task)))
        on_this_node = _on_this_node(task.spec)
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={on_this_node}"]
        if nodes() == 1:
            command += ["--standalone", "--local-addr=127.0.0.1"]
        threads = str(max(1, torch.get_num_threads() // on_this_node))
        process = subprocess.Popen(  # noqa: S603
            [*command, "-m", "airflow_mlops.models.trainers.torch.worker", str(file)],
            env={"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            # Another node has nothing to do any more once the result is there.
            while process.poll() is None and messages.refused is None and not run.finished():
                time.sleep(_LOOK_SECONDS)
        finally:
            _end(process)
        messages.close()
    if messages.refused is not None:
        raise messages.refused
    if messages.error is not None:
        raise messages.error
    if process.returncode and not run.finished():
        raise TrainingError(
            f"A process that trained ended with status {process.returncode}, and the log above says which: a status "
            "of -9 is one that was killed, most often for want of memory."
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        # torchrun hands this on, and each process leaves a checkpoint.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()


class _Messages:
    """Takes what the processes say, in a thread."""

    def __init__(self, address: str, run: TrainingRun) -> None:
        self.address = address
        self.error: MLOpsError | None = None
        # What the run raised when it was told.
        self.refused: Exception | None = None
        self._run = run
        self._listener = Listener(address, "AF_UNIX")
        self._threads: list[threading.Thread] = []
        self._open = True

    def __enter__(self) -> _Messages:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Read what is still to be read."""
        if not self._open:
            return
        self._open = False
        # The one way out of accept().
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
                    name, message = values
                    self.error = self.error or getattr(exceptions, name)(message)
                elif self.refused is None:
                    try:
                        (self._run.log if kind == "metrics" else self._run.progress)(*values)
                    except Exception as error:  # noqa: BLE001 - raised where the training was started
                        self.refused = error
