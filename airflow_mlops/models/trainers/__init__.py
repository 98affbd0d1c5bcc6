"""Trainers, which fit a model to a training set.

Each kind of trainer has a spec in ``spec.py``, a module in this folder with a function ``fit`` that returns a
:class:`airflow_mlops.models.trainers.base.FittedModel`, an entry in ``_MODULES``, and a class for DAG files in
:mod:`airflow_mlops.trainers`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_MODULES = {
    "sklearn": "airflow_mlops.models.trainers.sklearn.trainer",
    "function": "airflow_mlops.models.trainers.function",
    "notebook": "airflow_mlops.models.trainers.programs.notebook",
    "project": "airflow_mlops.models.trainers.programs.project",
    "torch": "airflow_mlops.models.trainers.torch.trainer",
    **dict.fromkeys(("xgboost", "lightgbm", "catboost"), "airflow_mlops.models.trainers.boosting.trainer"),
}


def trainer_module(kind: str) -> ModuleType:
    """Import and return the trainer module for ``kind``. The function ``fit`` of this module trains a model."""
    return importlib.import_module(_MODULES[kind])
