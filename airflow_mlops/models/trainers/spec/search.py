"""The spec of a search for the parameters of a trainer, and the check of any declared trainer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from airflow_mlops.core.base import Model, parse
from airflow_mlops.metrics.catalog import MetricName, check_chooses, check_metric
from airflow_mlops.models.trainers.objectives import quantile_of
from airflow_mlops.models.trainers.space import ParameterSpec
from airflow_mlops.models.trainers.spec.base import TrainerSpec
from airflow_mlops.models.trainers.spec.boosting import CatBoostTrainerSpec, LightGBMTrainerSpec, XGBoostTrainerSpec
from airflow_mlops.models.trainers.spec.kinds import (
    FunctionTrainerSpec,
    NotebookTrainerSpec,
    ProjectTrainerSpec,
    SklearnTrainerSpec,
    TorchTrainerSpec,
)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind") or ("function" if "function" in value else "sklearn"))
    return str(getattr(value, "kind", ""))


_Kinds = (
    Annotated[SklearnTrainerSpec, Tag("sklearn")]
    | Annotated[FunctionTrainerSpec, Tag("function")]
    | Annotated[NotebookTrainerSpec, Tag("notebook")]
    | Annotated[ProjectTrainerSpec, Tag("project")]
    | Annotated[TorchTrainerSpec, Tag("torch")]
    | Annotated[XGBoostTrainerSpec, Tag("xgboost")]
    | Annotated[LightGBMTrainerSpec, Tag("lightgbm")]
    | Annotated[CatBoostTrainerSpec, Tag("catboost")]
)
AnyTrainer = Annotated[_Kinds, Discriminator(_kind)]


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


TrainerInput = Annotated[_Kinds | Annotated[SearchTrainerSpec, Tag("search")], Discriminator(_kind)]


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
