"""The specs of the trainers, which define the JSON fields of each kind of trainer."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from airflow_mlops.core.base import Model, Name, parse
from airflow_mlops.metrics.catalog import MetricName, check_chooses, check_metric
from airflow_mlops.models.trainers.objectives import only_quantile, quantile_of
from airflow_mlops.models.trainers.space import ParameterSpec

# package.module.Class, or package.module:function
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(\.|:)[A-Za-z_]\w*$")]
# The parameters that a training passes to a notebook or a project in addition to the user's parameters.
PROGRAM_PARAMETERS = ("train_path", "validation_path", "contract", "seed", "sample_weight")


class TrainerSpec(Model):
    """The fields that all trainers have in common.

    :param params: keyword arguments of the estimator or the network, or the argument ``params`` of the user's function
    :param name: name of the candidate in MLflow; by default the name of the class or function
    :param serialization: file format of a scikit-learn model; loading a ``cloudpickle`` file can run code
    :param trusted_types: names of types that the stored model may contain in addition to the types of scikit-learn,
        NumPy, SciPy and InterpretML's glass-box models
    """

    params: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    serialization: Literal["skops", "cloudpickle"] = "skops"
    trusted_types: list[str] = Field(default_factory=list)

    # Fields that a search may choose, in addition to params.
    searchable: ClassVar[frozenset[str]] = frozenset()
    # Whether the trainer reads the rows itself, in parts, and holds out validation rows.
    streams: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Return the name of the candidate: ``name``, or by default the name of the class or function."""
        return self.name or self.path.replace(":", ".").rpartition(".")[2]

    @property
    @abstractmethod
    def path(self) -> str:
        """Return the import path of the estimator class, the network or the function."""

    def with_values(self, values: dict[str, Any]) -> TrainerSpec:
        """Return a copy with the values that a search chose. Names outside ``searchable`` go into ``params``.

        :raises pydantic.ValidationError: a value is not valid for its field
        """
        fields = {name: value for name, value in values.items() if name in self.searchable}
        params = {name: value for name, value in values.items() if name not in self.searchable}
        return self.model_validate({**self.model_dump(), **fields, "params": {**self.params, **params}})


class SklearnTrainerSpec(TrainerSpec):
    """A trainer of a scikit-learn estimator.

    :param estimator: import path of the estimator's class
    :param preprocessing: import path of a function ``(numeric: list[str], categorical: list[str]) -> transformer``; by
        default the transformer is chosen by the types of the columns
    """

    kind: Literal["sklearn"] = "sklearn"
    estimator: ImportPath
    preprocessing: ImportPath | None = None

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


class BoostingTrainerSpec(TrainerSpec):
    """The fields of trainers of boosted trees. :class:`airflow_mlops.trainers.XGBoostTrainer` documents all fields.

    :param group: column whose values name the groups of a ranking; ``None`` for other models
    :param warm_start: ``champion``, or the number of the version to start from. The training replaces ``champion`` by
        the number and records it
    """

    rounds: int = Field(default=1000, ge=1)
    validation: float = Field(default=0.1, ge=0, lt=1)
    patience: int | None = Field(default=50, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    warm_start: Literal["champion"] | Annotated[int, Field(ge=1)] | None = None
    group: str | None = Field(default=None, min_length=1)

    streams: ClassVar[bool] = True
    searchable: ClassVar[frozenset[str]] = frozenset({"rounds", "patience"})
    # Name of the library's module, and the parameters that have separate fields.
    library: ClassVar[str]
    reserved: ClassVar[dict[str, str]]

    @model_validator(mode="after")
    def _check_params(self) -> BoostingTrainerSpec:
        for name, instead in self.reserved.items():
            if name in self.params:
                raise ValueError(f"params cannot contain {name!r}; {instead}")
        return self

    @property
    def steps(self) -> int:
        return self.rounds


_ROUNDS, _SEED, _GPU = "set rounds=", "set seed= of the TrainOperator", "set device="
_PATIENCE, _CLASSES = "set patience=", "the classes are those of the training set"
_LOSS = "early stopping measures the loss of the objective"
_CATEGORIES, _FILES = "the text features are the categories", "the trainer stores its files itself"


class XGBoostTrainerSpec(BoostingTrainerSpec):
    """A trainer of boosted trees with XGBoost. ``params`` are the parameters of ``xgboost.train``."""

    kind: Literal["xgboost"] = "xgboost"
    library: ClassVar[str] = "xgboost"
    reserved: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("n_estimators", "num_boost_round"), _ROUNDS),
        **dict.fromkeys(("seed", "random_state", "seed_per_iteration"), _SEED),
        **dict.fromkeys(("device", "gpu_id"), _GPU),
        "early_stopping_rounds": _PATIENCE,
        "num_class": _CLASSES,
        **dict.fromkeys(("eval_metric", "disable_default_eval_metric"), _LOSS),
    }

    @model_validator(mode="after")
    def _check_quantile(self) -> XGBoostTrainerSpec:
        # A text may still be a template, and a search may choose the quantile.
        if isinstance(self.params.get("quantile_alpha"), list | tuple):
            only_quantile(self.params["quantile_alpha"])
        return self

    @property
    def path(self) -> str:
        return "XGBoost"


class LightGBMTrainerSpec(BoostingTrainerSpec):
    """A trainer of boosted trees with LightGBM. ``params`` are the parameters of ``lightgbm.train``."""

    kind: Literal["lightgbm"] = "lightgbm"
    library: ClassVar[str] = "lightgbm"
    reserved: ClassVar[dict[str, str]] = {
        **dict.fromkeys(
            ("num_iterations", "n_estimators", "num_boost_round", "num_rounds", "num_trees", "n_iter", "max_iter"),
            _ROUNDS,
        ),
        **dict.fromkeys(("seed", "random_seed", "random_state", "deterministic"), _SEED),
        **dict.fromkeys(("device_type", "device"), _GPU),
        **dict.fromkeys(("early_stopping_round", "early_stopping_rounds", "early_stopping"), _PATIENCE),
        **dict.fromkeys(("num_class", "num_classes"), _CLASSES),
        **dict.fromkeys(("metric", "metrics", "metric_types"), _LOSS),
        **dict.fromkeys(("categorical_feature", "cat_feature", "categorical_column"), _CATEGORIES),
        **dict.fromkeys(("application", "app", "loss", "objective_type"), "call it objective"),
        **dict.fromkeys(("boosting_type", "boost"), "call it boosting"),
    }

    @property
    def path(self) -> str:
        return "LightGBM"


class CatBoostTrainerSpec(BoostingTrainerSpec):
    """A trainer of boosted trees with CatBoost. ``params`` are the parameters of ``catboost.CatBoost``."""

    kind: Literal["catboost"] = "catboost"
    library: ClassVar[str] = "catboost"
    reserved: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("iterations", "num_boost_round", "n_estimators", "num_trees"), _ROUNDS),
        **dict.fromkeys(("random_seed", "random_state"), _SEED),
        **dict.fromkeys(("task_type", "devices"), _GPU),
        **dict.fromkeys(("early_stopping_rounds", "od_type", "od_wait", "od_pval", "use_best_model"), _PATIENCE),
        **dict.fromkeys(("classes_count", "class_names"), _CLASSES),
        **dict.fromkeys(("eval_metric", "custom_metric"), _LOSS),
        "cat_features": _CATEGORIES,
        **dict.fromkeys(
            ("train_dir", "save_snapshot", "snapshot_file", "snapshot_interval", "allow_writing_files"), _FILES
        ),
        "objective": "call it loss_function",
    }

    @property
    def path(self) -> str:
        return "CatBoost"


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind") or ("function" if "function" in value else "sklearn"))
    return str(getattr(value, "kind", ""))


AnyTrainer = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[NotebookTrainerSpec, Tag("notebook")]
    | Annotated[ProjectTrainerSpec, Tag("project")]
    | Annotated[TorchTrainerSpec, Tag("torch")]
    | Annotated[XGBoostTrainerSpec, Tag("xgboost")]
    | Annotated[LightGBMTrainerSpec, Tag("lightgbm")]
    | Annotated[CatBoostTrainerSpec, Tag("catboost")],
    Discriminator(_kind),
]


class SearchTrainerSpec(Model):
    """A search for the best parameters of a trainer.

    :param trainer: the trainer whose parameters are searched
    :param space: the range or the choices of each searched parameter, by name
    :param trials: number of trials, over all workers
    :param metric: name of the metric to optimise; by default the metric by which the best model is judged
        (:mod:`airflow_mlops.metrics.judged`). A custom metric is given
        by its import path. An expected cost is given as a mapping with its costs (:mod:`airflow_mlops.metrics.costs`),
        and a Tweedie deviance as a mapping with its power (:mod:`airflow_mlops.metrics.deviances`)
    :param greater_is_better: whether greater values of a custom metric are better
    :param folds: number of folds of the cross-validation. Networks and boosted trees are measured on their
        validation rows instead
    :param pruner: ``median`` ends a trial that is worse than the median of the other trials at the same fold, epoch or
        round
    :param storage_conn_id: Airflow connection to the database that stores the study; required if the artifact store is
        not a file system
    """

    kind: Literal["search"] = "search"
    trainer: AnyTrainer
    space: dict[str, ParameterSpec] = Field(min_length=1)
    trials: int = Field(ge=1)
    metric: MetricName | None = None
    greater_is_better: bool | None = None
    folds: int = Field(default=5, ge=2)
    pruner: Literal["median"] | None = "median"
    storage_conn_id: str | None = None

    @model_validator(mode="after")
    def _check(self) -> SearchTrainerSpec:
        check_metric(self.metric, self.greater_is_better)
        check_chooses(self.metric)
        alpha = quantile_of(self.trainer)
        if self.metric is None and alpha is not None:
            raise ValueError(
                f"the trainer learns the quantile {alpha:g}, which cannot be judged by rmse, the default for regression; set "
                f"metric={{'metric': 'pinball', 'alpha': {alpha:g}}}"
            )
        if self.metric is None and getattr(self.trainer, "group", None) is not None:
            raise ValueError(
                "the trainer learns a ranking, whose scores cannot be compared by rmse, the default for regression; set "
                "`metric`, for example {'metric': 'ndcg', 'k': 10, 'group': ...}"
            )
        if twice := sorted(set(self.space) & set(self.trainer.params)):
            raise ValueError(
                f"parameter {twice[0]!r} is in both space and the trainer's params; remove it from one of them"
            )
        if self.trainer.streams and not getattr(self.trainer, "validation"):  # noqa: B009
            raise ValueError(
                "the trainer has validation=0, but a search compares networks and boosted trees on their validation rows; "
                "set for example validation=0.1"
            )
        if getattr(self.trainer, "warm_start", None) is not None:
            raise ValueError("a search cannot start from another model; remove `warm_start` from the trainer")
        for name, parameter in self.space.items():
            for value in parameter.ends:
                if quantile_of(self._with(name, value)) != alpha:
                    raise ValueError(
                        f"{name!r} is in `space`, but it decides which quantile the model predicts, and models of different quantiles cannot be "
                        "compared; set it in `params` of the trainer"
                    )
        return self

    def _with(self, name: str, value: Any) -> TrainerSpec:
        try:
            return self.trainer.with_values({name: value})
        except ValidationError as error:
            raise ValueError(f"{name} cannot be {value!r}: {error.errors()[0]['msg']}") from None

    @property
    def label(self) -> str:
        """Return the name of the candidate."""
        return self.trainer.label


TrainerInput = Annotated[
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[NotebookTrainerSpec, Tag("notebook")]
    | Annotated[ProjectTrainerSpec, Tag("project")]
    | Annotated[TorchTrainerSpec, Tag("torch")]
    | Annotated[XGBoostTrainerSpec, Tag("xgboost")]
    | Annotated[LightGBMTrainerSpec, Tag("lightgbm")]
    | Annotated[CatBoostTrainerSpec, Tag("catboost")]
    | Annotated[SearchTrainerSpec, Tag("search")],
    Discriminator(_kind),
]


def check_trainer(trainer: Any, where: str) -> None:
    """Validate a trainer in a DAG file.

    :param trainer: the declared trainer
    :param where: start of the error message, such as ``The search``
    :raises SpecError: a field is invalid. The error names every invalid field
    """
    kinds: dict[str, type[Model]] = {
        "function": FunctionTrainerSpec,
        "notebook": NotebookTrainerSpec,
        "project": ProjectTrainerSpec,
        "torch": TorchTrainerSpec,
        "xgboost": XGBoostTrainerSpec,
        "lightgbm": LightGBMTrainerSpec,
        "catboost": CatBoostTrainerSpec,
        "search": SearchTrainerSpec,
    }
    parse(kinds.get(_kind(trainer), SklearnTrainerSpec), trainer, where)
