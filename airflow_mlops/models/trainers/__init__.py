"""Trainers: fit a model to a training set.

Each kind of trainer has a spec in :mod:`.spec`, a module here with a function ``fit``, and a line in ``_MODULES``.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = {
    "sklearn": "airflow_mlops.models.trainers.sklearn.trainer",
    "function": "airflow_mlops.models.trainers.function",
    "torch": "airflow_mlops.models.trainers.torch.trainer",
}


def trainer_module(kind: str) -> ModuleType:
    """Import the module whose function ``fit`` trains models of ``kind``."""
    return importlib.import_module(_MODULES[kind])
