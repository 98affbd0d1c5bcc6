"""Where a step runs, for the record in MLflow."""

from __future__ import annotations

import os
import shutil
import subprocess

from airflow_mlops.core.termination import peak_memory


def surroundings() -> dict[str, str]:
    """MLflow tags with the pod and its node, and the kind of GPU, where there are any."""
    found = {
        "mlops.pod": os.environ.get("MLOPS_POD"),
        "mlops.node": os.environ.get("MLOPS_NODE"),
        "mlops.gpu": _gpus(),
    }
    return {name: value for name, value in found.items() if value}


def used() -> dict[str, str]:
    """MLflow tags with what the step has taken so far."""
    return {"mlops.peak_memory_mb": f"{peak_memory() / 2**20:.0f}"}


def _gpus() -> str | None:
    """The names of the GPUs that this process sees, as the driver's own tool tells them: torch takes seconds to load."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603
            [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    names = [line.strip() for line in asked.stdout.splitlines() if line.strip()]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or None
