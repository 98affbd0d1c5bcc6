"""Imports the modules of the training processes in the process from which all training processes are forked.

These imports start no Python thread and do not initialise CUDA, because neither would survive a fork.
"""

from __future__ import annotations

import gc
import importlib

# The first step of an optimizer imports torch._dynamo, and conversions to Arrow import pandas.
MODULES = ["airflow_mlops.models.trainers.torch.worker", "torch._dynamo", "pandas"]

_threshold = gc.get_threshold()
# With Python's default thresholds, garbage collection takes a seventh of the CPU time of these imports.
gc.set_threshold(10_000, 10, 10)
for _name in MODULES:
    importlib.import_module(_name)
gc.set_threshold(*_threshold)
# Forked processes share the memory of the imported objects until a process writes to it. freeze() keeps the garbage
# collector from writing to these objects.
gc.freeze()
