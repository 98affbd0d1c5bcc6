"""The specs of trainers of scikit-learn estimators, functions, programs and networks."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from airflow_mlops.models.trainers.spec.base import ImportPath, TrainerSpec

# The parameters that a training passes to a notebook or a project in addition to the user's parameters.
PROGRAM_PARAMETERS = ("train_path", "validation_path", "contract", "seed", "sample_weight")


class SklearnTrainerSpec(TrainerSpec):
    """A trainer of a scikit-learn estimator.

    :param estimator: import path of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``; by
        default the transformer is chosen by the types of the columns
    :param max_rows: number of training rows to draw if there are more; ``None`` for all rows
    :param batch_rows: number of rows of a batch, which is passed to ``partial_fit``; ``None`` to call ``fit`` with all
        rows
    :param epochs: number of passes over the training rows with ``batch_rows``
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: ImportPath
    preprocessing: ImportPath | None = None
    max_rows: int | None = Field(default=None, ge=1)
    batch_rows: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _check_batches(self) -> SklearnTrainerSpec:
        if self.batch_rows is None and self.epochs > 1:
            raise ValueError(
                "epochs= is set without batch_rows=; set batch_rows=, or the estimator's own number of passes in params"
            )
        if self.batch_rows is not None and self.max_rows is not None:
            raise ValueError("max_rows= and batch_rows= cannot be combined; remove one of them")
        return self

    @property
    def reads_rows(self) -> bool:
        return self.batch_rows is not None

    @property
    def path(self) -> str:
        return self.estimator


class FunctionTrainerSpec(TrainerSpec):
    """A trainer that calls a user-defined function.

    :param function: import path of a function ``(X, y, *, params, seed) -> fitted estimator``. If the rows have
        weights, the function also needs the parameter ``sample_weight``
    """

    kind: Literal["function"] = "function"
    function: ImportPath

    @property
    def path(self) -> str:
        return self.function


class ProgramTrainerSpec(TrainerSpec):
    """The fields of trainers that run a program, and take the model that the program logs to MLflow.

    :param validation: fraction of the training rows that the program gets separately, for early stopping
    """

    validation: float = Field(default=0.0, ge=0, lt=1)

    # Names of the parameters that the training sets.
    reserved: ClassVar[tuple[str, ...]] = PROGRAM_PARAMETERS

    @model_validator(mode="after")
    def _check_params(self) -> ProgramTrainerSpec:
        if taken := [name for name in self.params if name in self.reserved]:
            raise ValueError(
                f"params cannot contain {taken[0]!r}, because the training sets this parameter; rename yours"
            )
        return self


class NotebookTrainerSpec(ProgramTrainerSpec):
    """A trainer that runs a Jupyter notebook.

    :param notebook: path of the notebook; a relative path is searched in the folders from which modules are imported
    """

    kind: Literal["notebook"] = "notebook"
    notebook: Annotated[str, Field(pattern=r"\.ipynb$")]

    @property
    def label(self) -> str:
        return self.name or PurePosixPath(self.notebook).stem

    @property
    def path(self) -> str:
        return self.notebook


class ProjectTrainerSpec(ProgramTrainerSpec):
    """A trainer that runs an MLflow Project.

    :param project: path of the folder with the file ``MLproject``; a relative path is searched in the folders from
        which modules are imported
    :param entry_point: name of the entry point
    :param env_manager: the environment in which MLflow runs the project; ``local`` is that of the step
    """

    kind: Literal["project"] = "project"
    project: Annotated[str, Field(min_length=1)]
    entry_point: str = "main"
    env_manager: Literal["local", "virtualenv", "uv", "conda"] = "local"

    @property
    def label(self) -> str:
        return self.name or PurePosixPath(self.project).name

    @property
    def path(self) -> str:
        return self.project


class TorchTrainerSpec(TrainerSpec):
    """A trainer of a PyTorch network on streamed batches.

    :class:`airflow_mlops.trainers.TorchTrainer` documents all fields.

    :param module: import path of a class or function ``(numbers, texts, outputs, **params) -> torch.nn.Module``; with
        ``dataset``, its arguments are ``(**params)``. By default the built-in network for tables is trained, with the
        ``params`` ``hidden`` and ``dropout``
    :param dataset: import path of a class or function ``(rows, features, label, **dataset_params) ->
        torch.utils.data.Dataset``
    :param processes: number of training processes per node; by default one per GPU
    """

    kind: Literal["torch"] = "torch"
    module: ImportPath | None = None
    dataset: ImportPath | None = None
    dataset_params: dict[str, Any] = Field(default_factory=dict)
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    precision: Literal["32", "bf16", "16"] = "32"
    accumulate: int = Field(default=1, ge=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    patience: int | None = Field(default=3, ge=0)
    checkpoint_every: int = Field(default=500, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    processes: int | None = Field(default=None, ge=1)

    streams: ClassVar[bool] = True
    searchable: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "batch_size", "learning_rate", "weight_decay", "precision", "accumulate", "patience"}
    )

    @model_validator(mode="after")
    def _check_dataset(self) -> TorchTrainerSpec:
        if self.dataset and not self.module:
            raise ValueError(
                "dataset= is set without module=; set module=, because the built-in network supports only tables"
            )
        return self

    @property
    def path(self) -> str:
        return self.module or "TabularNetwork"

    @property
    def steps(self) -> int:
        return self.epochs
