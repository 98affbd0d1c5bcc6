"""Imports what training processes import, once for all of them, in the process that they are forked from.

It starts no thread of Python and does not initialise CUDA, because neither would survive a fork.
"""

from __future__ import annotations

import gc
import importlib

# The first step of an optimizer imports torch._dynamo, and conversions to Arrow import pandas.
MODULES = ["airflow_mlops.models.trainers.torch.worker", "torch._dynamo", "pandas"]

_threshold = gc.get_threshold()
# With Python's own thresholds, the search for cyclic garbage takes a seventh of the CPU time of these imports.
gc.set_threshold(10_000, 10, 10)
for _name in MODULES:
    importlib.import_module(_name)
gc.set_threshold(*_threshold)
# The garbage collector would write to all these objects, so each process would need memory of its own for them.
gc.freeze()
