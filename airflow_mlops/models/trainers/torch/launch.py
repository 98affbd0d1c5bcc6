"""Run torchrun, and fork its training processes from one process that has already imported PyTorch.

``python -m airflow_mlops.models.trainers.torch.launch [OPTIONS OF TORCHRUN] FILE`` runs
:mod:`airflow_mlops.models.trainers.torch.worker` in each training process. Forking saves the 3 s of CPU time that each
training process would need to import PyTorch.
"""

from __future__ import annotations

import gc
import sys
from multiprocessing import forkserver
from pathlib import Path


def main(arguments: list[str]) -> None:
    """Run torchrun.

    :param arguments: the options of torchrun, followed by the file that is the argument of each training process
    """
    *options, file = arguments
    forkserver.set_forkserver_preload(["airflow_mlops.models.trainers.torch.preload"])
    # The fork server is started before this process imports PyTorch, so that both processes import it at the same time.
    forkserver.ensure_running()
    from torch.distributed.run import main as torchrun

    # Without freeze(), the garbage collection at the end of this process would visit all objects of PyTorch.
    gc.freeze()
    script = str(Path(__file__).with_name("worker.py"))
    torchrun([*options, "--start-method=forkserver", "--run-path", script, file])


if __name__ == "__main__":
    main(sys.argv[1:])
