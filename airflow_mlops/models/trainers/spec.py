"""Trainers as JSON: what each kind takes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from airflow_mlops.core.base import Model, Name, parse
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.models.trainers.space import ParameterSpec

# package.module.Class, or package.module:function
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(\.|:)[A-Za-z_]\w*$")]


class TrainerSpec(Model):
    """What all trainers have in common.

    :param params: keyword arguments of the estimator, or what the function gets as ``params``
    :param name: what the candidate is called in MLflow; the estimator's or the function's name unless given
    :param serialization: how the scikit-learn flavour is stored; ``cloudpickle`` can run code when it is loaded
    :param trusted_types: types outside scikit-learn, NumPy, SciPy and InterpretML's glass boxes that the stored model may
        hold
    """

    params: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    serialization: Literal["skops", "cloudpickle"] = "skops"
    trusted_types: list[str] = Field(default_factory=list)

    # Fields that a search may choose as well as params.
    searchable: ClassVar[frozenset[str]] = frozenset()

    @property
    def label(self) -> str:
        """What the candidate is called: as the user says, or as the class or the function is."""
        return self.name or self.path.replace(":", ".").rpartition(".")[2]

    @property
    @abstractmethod
    def path(self) -> str:
        """Import path of what is trained."""

    def with_values(self, values: dict[str, Any]) -> TrainerSpec:
        """The same trainer with what a search chose: fields of its own where they are searchable, else ``params``.

        :raises pydantic.ValidationError: a field does not take its value
        """
        fields = {name: value for name, value in values.items() if name in self.searchable}
        params = {name: value for name, value in values.items() if name not in self.searchable}
        return self.model_validate({**self.model_dump(), **fields, "params": {**self.params, **params}})


class SklearnTrainerSpec(TrainerSpec):
    """A scikit-learn estimator by import path.

    :param estimator: import path of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``;
        unless given, one is made from the columns' types
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: ImportPath
    preprocessing: ImportPath | None = None

    @property
    def path(self) -> str:
        return self.estimator


class FunctionTrainerSpec(TrainerSpec):
    """The user's own function by import path.

    :param function: import path of a function ``(X, y, *, params, seed) -> fitted estimator``
    """

    kind: Literal["function"] = "function"
    function: ImportPath

    @property
    def path(self) -> str:
        return self.function


class TorchTrainerSpec(TrainerSpec):
    """A network, trained on a stream of batches.

    :param module: import path of a class or function ``(numbers, texts, outputs, **params) -> torch.nn.Module``; unless
        given, a network for tables whose ``params`` are ``hidden`` and ``dropout``. With ``dataset``, ``(**params)``
    :param dataset: import path of a class or function ``(rows, features, label, **dataset_params) ->
        torch.utils.data.Dataset``
    :param processes: how many train together on each node; one a GPU unless given
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

    searchable: ClassVar[frozenset[str]] = frozenset(
        {"epochs", "batch_size", "learning_rate", "weight_decay", "precision", "accumulate", "patience"}
    )

    @model_validator(mode="after")
    def _check_dataset(self) -> TorchTrainerSpec:
        if self.dataset and not self.module:
            raise ValueError("dataset= needs module=: the built-in network reads tables only")
        return self

    @property
    def path(self) -> str:
        return self.module or "TabularNetwork"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind") or ("function" if "function" in value else "sklearn"))
    return str(getattr(value, "kind", ""))


AnyTrainer = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[TorchTrainerSpec, Tag("torch")],
    Discriminator(_kind),
]


class SearchTrainerSpec(Model):
    """The trainer whose parameters are best among those that were tried.

    :param trainer: what is trained
    :param space: what is chosen, by name
    :param trials: how many choices are tried, over all workers
    :param metric: what is compared; the task's main metric unless given
    :param folds: of the cross-validation; a network is measured on the rows that it keeps for validation
    :param pruner: ends a trial that does worse than the median of the others at the same fold or epoch
    :param storage_conn_id: the database that holds the study, where the artifact store is no file system
    """

    kind: Literal["search"] = "search"
    trainer: AnyTrainer
    space: dict[str, ParameterSpec] = Field(min_length=1)
    trials: int = Field(ge=1)
    metric: str | None = None
    folds: int = Field(default=5, ge=2)
    pruner: Literal["median"] | None = "median"
    storage_conn_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SearchTrainerSpec:
        if self.metric is not None and self.metric not in METRICS:
            raise ValueError(f"there is no metric {self.metric!r}: take one of {', '.join(METRICS)}")
        if twice := sorted(set(self.space) & set(self.trainer.params)):
            raise ValueError(f"{twice[0]!r} is in space and in the trainer's params: leave it out of one of them")
        if isinstance(self.trainer, TorchTrainerSpec) and not self.trainer.validation:
            raise ValueError("a network is compared on the rows it keeps for validation: give it validation=0.1 or so")
        for name, parameter in self.space.items():
            for value in parameter.ends:
                self._try(name, value)
        return self

    def _try(self, name: str, value: Any) -> None:
        try:
            self.trainer.with_values({name: value})
        except ValidationError as error:
            raise ValueError(f"{name} cannot be {value!r}: {error.errors()[0]['msg']}") from None

    @property
    def label(self) -> str:
        """What the candidate is called."""
        return self.trainer.label


TrainerInput = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[TorchTrainerSpec, Tag("torch")]
    | Annotated[SearchTrainerSpec, Tag("search")],
    Discriminator(_kind),
]


def check_trainer(trainer: Any, where: str) -> None:
    """Find mistakes in a trainer that was written into a DAG.

    :raises SpecError: naming each field that is wrong
    """
    kinds: dict[str, type[Model]] = {
        "function": FunctionTrainerSpec,
        "torch": TorchTrainerSpec,
        "search": SearchTrainerSpec,
    }
    parse(kinds.get(_kind(trainer), SklearnTrainerSpec), trainer, where)
