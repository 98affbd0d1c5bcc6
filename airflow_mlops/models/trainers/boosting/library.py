"""The interface of a library of boosted trees."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from airflow_mlops.core.contract import Task
from airflow_mlops.core.cpus import wanted_threads
from airflow_mlops.core.errors import SpecError
from airflow_mlops.models.onnx.boosting import Ensemble, Link
from airflow_mlops.models.trainers.boosting.encoding import Encoding
from airflow_mlops.models.trainers.boosting.progress import Progress
from airflow_mlops.models.trainers.boosting.rows import Rows
from airflow_mlops.models.trainers.spec import BoostingTrainerSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


RANKING = "ranking"
"""Key of the objectives of rankings."""


@dataclass(frozen=True)
class Job:
    """The arguments of one training, in the form that all libraries share.

    :param spec: the trainer, with the settings of the training
    :param task: the ML task (binary, multiclass, regression)
    :param rows: the training rows
    :param held_out: the validation rows; ``None`` without early stopping
    :param classes: number of classes; 0 for a regression
    :param seed: seed of the library
    :param gpu: whether to train on a GPU
    :param start: model of a warm start in the library's own format; ``None`` to start without trees
    :param progress: follows the rounds of the training
    """

    spec: BoostingTrainerSpec
    task: Task
    classes: int
    rows: Rows
    held_out: Rows | None
    seed: int
    gpu: bool
    start: bytes | None
    progress: Progress


class Booster(Protocol):
    """A trained model of a library.

    :param rounds: number of rounds whose trees the model has
    """

    rounds: int

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict encoded rows: probabilities, shape (n, k), or values, shape (n, 1)."""

    def ensemble(self, encoding: Encoding) -> Ensemble:
        """Return the trees for the ONNX export."""

    def to_bytes(self) -> bytes:
        """Return the model in the library's own format."""


class Library(Protocol):
    """The functions and constants of a module that supports one library: XGBoost, LightGBM or CatBoost.

    :param FILE: name of the model file in the library's own format
    :param NULLS: whether nulls of a text feature are a category; otherwise they are missing values
    """

    FILE: str
    NULLS: bool

    def has_gpu(self) -> bool:
        """Return whether the library is built for a GPU and finds one."""

    def check(self, spec: BoostingTrainerSpec, task: Task, features: Sequence[Any]) -> None:
        """Check that a model with these parameters can be trained, continued and exported.

        The rows are streamed, the training continues an earlier model if the spec says so, and the model is exported to
        ONNX.

        :param spec: the trainer
        :param task: the ML task
        :param features: names and kinds of the features
        :raises SpecError: a parameter does not allow this
        """

    def train(self, job: Job) -> Booster:
        """Train a model, from the checkpoint or from ``job.start`` if there is one.

        :param job: the rows and the settings of the training
        :raises TrainingError: the library refuses the parameters or the rows
        """

    def contributions(
        self, content: bytes, encoding: Encoding
    ) -> tuple[Link, Callable[[NDArray[np.float32]], NDArray[np.float64]]]:
        """Read a stored model, and return its link function and a function that computes contributions.

        The function takes encoded rows. It returns the contributions of the features to each output, followed by the
        base, shape (n, outputs, features + 1). They add up to the log-odds of the second class (binary), the values
        before softmax (multiclass), or the value or its logarithm (regression).

        :param content: the model in the library's own format
        :param encoding: the encoding of its inputs
        :raises ValueError: the library cannot read the model
        :raises SpecError: the library is not installed
        """


def load(name: str) -> ModuleType:
    """Import a library, such as ``xgboost``.

    :raises SpecError: the library is not installed
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise SpecError(
            f"The model needs {name}, which is not installed where the step runs. Install airflow-mlops[{name}] there."
        ) from None


@cache
def distribution(name: str) -> str:
    """Return the name of the installed package that contains the module ``name``: ``xgboost`` or ``xgboost-cpu``."""
    # Cached, because this reads the file lists of all installed packages: a second for each trial of a search.
    return packages_distributions()[name][0]


def threads(params: dict[str, Any], *names: str) -> dict[str, int]:
    """Return the parameter for the number of threads; empty if ``params`` sets it.

    The number is ``OMP_NUM_THREADS``, or the number of CPUs that this process may use. By default, LightGBM and
    CatBoost start a thread for each CPU of the machine, even in a container with fewer CPUs. The surplus threads wait
    for each other, and the training takes many times as long.

    :param params: the parameters that the user has set
    :param names: the name of the parameter, followed by its aliases
    """
    if any(name in params for name in names):
        return {}
    return {names[0]: wanted_threads()}


def gpus() -> int:
    """Return the number of GPUs that the CUDA driver finds; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def objectives(tables: dict[str, dict[str, Any]], task: Task, spec: BoostingTrainerSpec) -> dict[str, Any]:
    """Return the objectives that suit an ML task; those of rankings if the trainer has groups.

    :param tables: the objectives by ML task, and those of rankings as :data:`RANKING`
    :raises SpecError: the trainer has groups, and the ML task is not a regression
    """
    if spec.group is None:
        return tables[task]
    if task != "regression":
        raise SpecError(
            f"The trainer has group={spec.group!r}, but the ML task is {task}. A ranking needs task='regression' and a label that is "
            "the relevance of the row. Remove `group`, or build the training set with this task."
        )
    return tables[RANKING]


def choose(objectives: dict[str, Any], params: dict[str, Any], name: str, default: str) -> tuple[str, Any]:
    """Return the objective in ``params``, or ``default``, and its entry in ``objectives``.

    :param objectives: the supported objectives
    :param params: the parameters that the user has set
    :param name: name of the parameter for the objective
    :param default: the objective if ``params`` does not set one
    :raises SpecError: the objective is not in ``objectives``
    """
    # CatBoost writes parameters of an objective after a colon.
    chosen = str(params.get(name, default))
    found = objectives.get(chosen, objectives.get(chosen.partition(":")[0] if name == "loss_function" else chosen))
    if found is None:
        raise SpecError(
            f"params has {name}={chosen!r}, which cannot be exported to ONNX or does not suit the ML task. Use one of "
            f"{', '.join(objectives)}."
        )
    return chosen, found
