"""torchrun, whose training processes are forked from one process that has imported PyTorch.

``python -m airflow_mlops.models.trainers.torch.launch [OPTIONS OF TORCHRUN] FILE`` runs
:mod:`airflow_mlops.models.trainers.torch.worker` once per GPU. A process that imports PyTorch itself needs 3 s of CPU time
before its first step.
"""

from __future__ import annotations

import gc
import sys
from multiprocessing import forkserver
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run torchrun.

    :param arguments: options of torchrun, and the argument of the training processes
    """
    *options, file = arguments
    forkserver.set_forkserver_preload(["airflow_mlops.models.trainers.torch.preload"])
    # Started before this process imports PyTorch too, so that both imports run at the same time.
    forkserver.ensure_running()
    from torch.distributed.run import main as torchrun

    # Otherwise the search for cyclic garbage at the end of this process goes through all of PyTorch.
    gc.freeze()
    script = str(Path(__file__).with_name("worker.py"))
    torchrun([*options, "--start-method=forkserver", "--run-path", script, file])


if __name__ == "__main__":
    main(sys.argv[1:])
