"""Fitting models: one module for each kind of trainer, and how a kind finds its module."""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = {
    "sklearn": "airflow_mlops.models.trainers.sklearn",
    "function": "airflow_mlops.models.trainers.function",
    "torch": "airflow_mlops.models.trainers.torch.trainer",
}


def trainer_module(kind: str) -> ModuleType:
    """Import the module that fits trainers of ``kind``; its ``fit`` does the work."""
    return importlib.import_module(_MODULES[kind])
