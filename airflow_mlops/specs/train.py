"""What a training is asked for and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from airflow_mlops.specs.base import (
    DatasetInput,
    DatasetRef,
    MLflowTarget,
    Model,
    ModelVersionRef,
    Name,
    Result,
    Spec,
    parse,
)

# package.module.Class, or package.module:function
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(\.|:)[A-Za-z_]\w*$")]


class TrainerSpec(Model):
    """What all trainers have in common.

    :param params: keyword arguments of the estimator, or what the function gets as ``params``
    :param name: what the candidate is called in MLflow; the estimator's or the function's name unless given
    :param serialization: how the scikit-learn flavour is stored; ``cloudpickle`` can run code when it is loaded
    :param trusted_types: types outside scikit-learn, NumPy and SciPy that the stored model may hold
    """

    params: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    serialization: Literal["skops", "cloudpickle"] = "skops"
    trusted_types: list[str] = Field(default_factory=list)


class SklearnTrainerSpec(TrainerSpec):
    """A scikit-learn estimator by import path.

    :param estimator: import path of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``;
        unless given, one is made from the columns' types
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: ImportPath
    preprocessing: ImportPath | None = None


class FunctionTrainerSpec(TrainerSpec):
    """The user's own function by import path.

    :param function: import path of a function ``(X, y, *, params, seed) -> fitted estimator``
    """

    kind: Literal["function"] = "function"
    function: ImportPath


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind") or ("function" if "function" in value else "sklearn"))
    return str(getattr(value, "kind", ""))


AnyTrainer = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")] | Annotated[FunctionTrainerSpec, Tag("function")],
    Discriminator(_kind),
]


class TrainSpec(Spec):
    """Fit one candidate to the part ``train`` of a training set and register it as a version of ``model``.

    :param dataset: a training set with the parts ``train`` and ``test``
    :param model: name of the registered model, and of the experiment unless ``mlflow`` names one
    :param seed: makes a training repeatable: same data, code and seed, same model
    :param tags: tags for the MLflow run
    """

    dataset: DatasetInput
    model: Name
    trainer: AnyTrainer
    seed: int = Field(default=0, ge=0, lt=2**32)
    mlflow: MLflowTarget = MLflowTarget()
    tags: dict[str, str] = Field(default_factory=dict)


class TrainResult(Result):
    """A candidate.

    :param candidate: its version in the registry
    :param run_id: the MLflow run that made it
    :param run_url: the run's page, if the tracking server has pages
    :param metrics: measured on the held-out part ``test``
    :param dataset: the training set
    :param trainer: name of what was trained
    """

    candidate: ModelVersionRef
    run_id: str
    run_url: str | None
    metrics: dict[str, float]
    dataset: DatasetRef
    trainer: str


def check_trainer(trainer: Any, where: str) -> None:
    """Find mistakes in a trainer that was written into a DAG.

    :raises SpecError: naming each field that is wrong
    """
    parse(FunctionTrainerSpec if _kind(trainer) == "function" else SklearnTrainerSpec, trainer, where)
