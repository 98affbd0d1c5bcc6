"""MLflow tags that describe the machine a step runs on."""

from __future__ import annotations

import os
import shutil
import subprocess

from airflow_mlops.core.termination import peak_memory
from airflow_mlops.registry.names import GPU_TAG


def machine_tags() -> dict[str, str]:
    """Return MLflow tags with the names of the pod, the node and the GPUs. An unknown name gets no tag."""
    found = {
        "mlops.pod": os.environ.get("MLOPS_POD"),
        "mlops.node": os.environ.get("MLOPS_NODE"),
        GPU_TAG: _gpus(),
    }
    return {name: value for name, value in found.items() if value}


def usage_tags() -> dict[str, str]:
    """Return MLflow tags with the resources that the step has used so far. The only tag is the peak memory in MB."""
    return {"mlops.peak_memory_mb": f"{peak_memory() / 1e6:.0f}"}


def _gpus() -> str | None:
    """Return the number and names of the GPUs that this process can use; ``None`` if it can use no GPU."""
    # nvidia-smi is used, because importing torch would take seconds. It also lists GPUs that CUDA_VISIBLE_DEVICES
    # hides.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        listed = subprocess.run(  # noqa: S603
            [tool, "--query-gpu=index,uuid,name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    gpus = [line.strip().split(", ", 2) for line in listed.stdout.splitlines() if line.strip()]
    names = [name for index, uuid, name in gpus if _is_visible(index, uuid)]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or None


def _is_visible(index: str, uuid: str) -> bool:
    """Return whether CUDA_VISIBLE_DEVICES allows this process to use a GPU.

    :param index: number of the GPU in nvidia-smi
    :param uuid: identifier such as ``GPU-8f6d...``
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    for chosen in map(str.strip, visible.split(",")):
        # This list has no MIG devices. If one of them is visible, every GPU of the list counts as visible.
        if chosen == index or chosen.startswith("MIG-") or (chosen.startswith("GPU-") and uuid.startswith(chosen)):
            return True
    return False
