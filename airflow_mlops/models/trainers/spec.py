"""The specs of the trainers, which define the JSON fields of each kind of trainer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from airflow_mlops.core.base import Model, Name, parse
from airflow_mlops.metrics.catalog import check_metric
from airflow_mlops.models.trainers.space import ParameterSpec

# package.module.Class, or package.module:function
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(\.|:)[A-Za-z_]\w*$")]


class TrainerSpec(Model):
    """The fields that all trainers have in common.

    :param params: keyword arguments of the estimator or the network, or the argument ``params`` of the user's function
    :param name: name of the candidate in MLflow; by default the name of the class or function
    :param serialization: file format of a scikit-learn model; loading a ``cloudpickle`` file can run code
    :param trusted_types: names of types that the stored model may contain in addition to the types of scikit-learn, NumPy,
        SciPy and InterpretML's glass-box models
    """

    params: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    serialization: Literal["skops", "cloudpickle"] = "skops"
    trusted_types: list[str] = Field(default_factory=list)

    # Fields that a search may choose, in addition to params.
    searchable: ClassVar[frozenset[str]] = frozenset()

    @property
    def label(self) -> str:
        """Return the name of the candidate: ``name``, or by default the name of the class or function."""
        return self.name or self.path.replace(":", ".").rpartition(".")[2]

    @property
    @abstractmethod
    def path(self) -> str:
        """Return the import path of the estimator class, the network or the function."""

    def with_values(self, values: dict[str, Any]) -> TrainerSpec:
        """Return a copy with the values that a search chose. Names that are not ``searchable`` fields go into ``params``.

        :raises pydantic.ValidationError: a value is not valid for its field
        """
        fields = {name: value for name, value in values.items() if name in self.searchable}
        params = {name: value for name, value in values.items() if name not in self.searchable}
        return self.model_validate({**self.model_dump(), **fields, "params": {**self.params, **params}})


class SklearnTrainerSpec(TrainerSpec):
    """A trainer of a scikit-learn estimator. The import path of the estimator's class is given.

    :param estimator: import path of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``;
        by default the transformer is chosen by the types of the columns
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: ImportPath
    preprocessing: ImportPath | None = None

    @property
    def path(self) -> str:
        return self.estimator


class FunctionTrainerSpec(TrainerSpec):
    """A trainer that calls a user-defined function. The import path of the function is given.

    :param function: import path of a function ``(X, y, *, params, seed) -> fitted estimator``
    """

    kind: Literal["function"] = "function"
    function: ImportPath

    @property
    def path(self) -> str:
        return self.function


class TorchTrainerSpec(TrainerSpec):
    """A trainer of a PyTorch network on streamed batches. :class:`airflow_mlops.trainers.TorchTrainer` documents all fields.

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
    """A search for the best parameters of a trainer.

    :param trainer: the trainer whose parameters are searched
    :param space: the range or the choices of each searched parameter, by name
    :param trials: number of trials, over all workers
    :param metric: name of the metric to optimise; by default the main metric of the ML task. A custom metric is given by
        its import path
    :param greater_is_better: whether greater values of a custom metric are better
    :param folds: number of folds of the cross-validation. A network is measured on the validation rows instead
    :param pruner: ``median`` ends a trial that is worse than the median of the other trials at the same fold or epoch
    :param storage_conn_id: Airflow connection to the database that stores the study; required if the artifact store is
        not a file system
    """

    kind: Literal["search"] = "search"
    trainer: AnyTrainer
    space: dict[str, ParameterSpec] = Field(min_length=1)
    trials: int = Field(ge=1)
    metric: str | None = None
    greater_is_better: bool | None = None
    folds: int = Field(default=5, ge=2)
    pruner: Literal["median"] | None = "median"
    storage_conn_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SearchTrainerSpec:
        check_metric(self.metric, self.greater_is_better)
        if twice := sorted(set(self.space) & set(self.trainer.params)):
            raise ValueError(
                f"parameter {twice[0]!r} is in both space and the trainer's params; remove it from one of them"
            )
        if isinstance(self.trainer, TorchTrainerSpec) and not self.trainer.validation:
            raise ValueError(
                "the TorchTrainer has validation=0, but a search compares networks on their validation rows; "
                "set for example validation=0.1"
            )
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
        """Return the name of the candidate."""
        return self.trainer.label


TrainerInput = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[TorchTrainerSpec, Tag("torch")]
    | Annotated[SearchTrainerSpec, Tag("search")],
    Discriminator(_kind),
]


def check_trainer(trainer: Any, where: str) -> None:
    """Validate a trainer in a DAG file.

    :param where: start of the error message, such as ``The search``
    :raises SpecError: a field is invalid. The error names every invalid field
    """
    kinds: dict[str, type[Model]] = {
        "function": FunctionTrainerSpec,
        "torch": TorchTrainerSpec,
        "search": SearchTrainerSpec,
    }
    parse(kinds.get(_kind(trainer), SklearnTrainerSpec), trainer, where)
