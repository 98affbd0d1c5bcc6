"""The number of CPUs that this process may use."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

# cgroup v2: the processor time that the container may use in a period, both in microseconds, or "max".
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_THREADS = "OMP_NUM_THREADS"


def available_cpus() -> int:
    """Count the CPUs that this process may use, according to its CPU affinity and its container's quota."""
    cpus = _schedulable()
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        if quota != "max":
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(cpus, 1)


def wanted_threads() -> int:
    """Return the number of threads or processes to compute with: ``OMP_NUM_THREADS``, or :func:`available_cpus`."""
    # The variable may contain one number for each level of nested parallelism.
    asked = os.environ.get(_THREADS, "").partition(",")[0].strip()
    return int(asked) if asked.isdigit() and int(asked) else available_cpus()


def limit_libraries() -> None:
    """Let libraries start as many threads as the container may use CPUs, unless ``OMP_NUM_THREADS`` is set.

    Arrow, BLAS and OpenMP count the CPUs on which the process may run, and ignore the container's quota. In a pod with
    one CPU on a machine with 64 CPUs, 64 threads would share the CPU, and each would need memory.
    """
    cpus = available_cpus()
    if _THREADS in os.environ or cpus >= _schedulable():
        return
    # Libraries read this variable when they are loaded.
    os.environ[_THREADS] = str(cpus)
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.set_cpu_count(cpus)


def _schedulable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
