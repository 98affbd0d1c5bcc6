"""Check whether a recorded trainer runs only estimators of well-known packages.

The author of a DAG decides which code a trainer runs. Anyone who may write MLflow runs can change a trainer that is
recorded in MLflow. Its import paths could then name any function of any installed package. A recorded trainer therefore
runs without further consent only if all its code consists of estimator classes of the packages in :data:`PACKAGES`.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_mlops.core import imports
from airflow_mlops.models.trainers.spec import (
    BoostingTrainerSpec,
    FunctionTrainerSpec,
    ProgramTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
    TrainerSpec,
)

PACKAGES = ("sklearn", "xgboost", "lightgbm", "catboost", "interpret")
# Modules with these names are internal. Importing some of them runs code that does more than define functions and
# classes.
_INTERNAL = {"conftest", "setup", "test", "testing", "tests"}
_METHODS = ("fit", "predict", "get_params")


def own_code(trainer: TrainerSpec) -> list[str]:
    """Return the paths of the user code that a trainer runs: import paths, or the path of a notebook or project.

    Estimator classes in public modules of :data:`PACKAGES` are not user code. Only modules of :data:`PACKAGES` are
    imported. The parameters of an estimator are not checked. They are JSON values, and neither trainers nor these
    packages import code that they name.

    :param trainer: the recorded trainer
    :return: the paths, in the order of the fields; empty if the trainer runs no user code
    :raises SpecError: an estimator of these packages does not exist, or its package is not installed
    """
    paths: list[str | None]
    if isinstance(trainer, SklearnTrainerSpec):
        paths = [None if is_known_estimator(trainer.estimator) else trainer.estimator, trainer.preprocessing]
    elif isinstance(trainer, FunctionTrainerSpec):
        paths = [trainer.function]
    elif isinstance(trainer, ProgramTrainerSpec):
        paths = [trainer.path]
    elif isinstance(trainer, TorchTrainerSpec):
        paths = [trainer.module, trainer.dataset]
    elif isinstance(trainer, BoostingTrainerSpec):
        paths = []
    else:
        raise TypeError(f"unknown kind of trainer: {type(trainer).__name__}")
    return [path for path in paths if path]


def is_known_estimator(path: str) -> bool:
    """Return whether an import path names an estimator class in a public module of :data:`PACKAGES`.

    The name of the module is checked before it is imported. The object must be a class of these packages with the
    methods of an estimator. Other objects are refused, because some functions of these packages run code, download data
    or write files.

    :raises SpecError: the module or the class does not exist
    """
    package, *inner = re.split(r"[.:]", path)
    if package not in PACKAGES or any(part.startswith("_") or part in _INTERNAL for part in inner):
        return False
    found: Any = imports.load(path, "estimator")
    return (
        isinstance(found, type)
        and found.__module__.partition(".")[0] in PACKAGES
        and all(callable(getattr(found, name, None)) for name in _METHODS)
    )
