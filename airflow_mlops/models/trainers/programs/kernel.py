"""The process that runs a notebook with papermill: ``python -m airflow_mlops.models.trainers.programs.kernel FILE``.

papermill handles SIGTERM itself while a notebook runs, and ends the kernel. A step needs its own handler of SIGTERM, so
papermill runs in a separate process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow_mlops.core.parent import end_with_parent


def main() -> None:
    """Run the notebook that the settings file names."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.execute import execute_notebook

    # The kernel runs in the Python of this process, even if the user has installed other kernels.
    here = KernelSpec(**get_kernel_dict())
    own_kernel: Any = type("OwnKernel", (AsyncKernelManager,), {"kernel_spec": property(lambda self: here)})
    end_with_parent()
    settings = json.loads(Path(sys.argv[1]).read_text())
    execute_notebook(
        settings["notebook"],
        settings["executed"],
        parameters=settings["parameters"],
        # As in Jupyter, relative paths in the notebook refer to its folder.
        cwd=str(Path(settings["notebook"]).parent),
        kernel_name="python3",
        language="python",
        progress_bar=False,
        kernel_manager_class=own_kernel,
    )


if __name__ == "__main__":
    main()
