"""The specs of the trainers of boosted trees."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from airflow_mlops.models.trainers.objectives import only_quantile
from airflow_mlops.models.trainers.spec.base import TrainerSpec


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
