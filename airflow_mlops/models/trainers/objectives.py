"""What the objective of a trainer learns: the mean, a quantile, the mean of counts or of positive amounts, or an order.

The objective decides by which metric a model is judged (:mod:`airflow_mlops.metrics.judged`). The objective of a user's
code and of a network is not known.

This module imports no heavy library, because DAG files import it while they are parsed.
"""

from __future__ import annotations

import math
import re
from typing import Any, Protocol

from airflow_mlops.metrics import deviances, rankings
from airflow_mlops.metrics.quantiles import name_of

# Quantile, or Quantile:alpha=0.9
_CATBOOST_QUANTILE = re.compile(r"Quantile(?::alpha=([^;]+))?(?:;.*)?")
# Tweedie:variance_power=1.5
_CATBOOST_TWEEDIE = re.compile(r"Tweedie:(?:.*;)?variance_power=([^;]+)(?:;.*)?")
_EBM_TWEEDIE = re.compile(r"tweedie_deviance(?::(?:.*,)?variance_power=([^,]+)(?:,.*)?)?")
# The power of Tweedie objectives of LightGBM, XGBoost and InterpretML, if it is not set.
_POWER = 1.5
_RANKED = 10
_FORESTS = ("DecisionTreeRegressor", "ExtraTreeRegressor", "RandomForestRegressor", "ExtraTreesRegressor")

_OBJECTIVES: dict[str, dict[str, float]] = {
    "lightgbm": {"poisson": 1.0, "gamma": 2.0},
    "xgboost": {"count:poisson": 1.0, "reg:gamma": 2.0},
    "catboost": {"Poisson": 1.0},
}
"""The powers of the deviances that objectives minimise, by kind of trainer and name of the objective."""


class Learner(Protocol):
    """The fields of a trainer that say what it learns, see :class:`airflow_mlops.models.trainers.spec.TrainerSpec`."""

    @property
    def params(self) -> dict[str, Any]: ...

    @property
    def path(self) -> str: ...


def own_metric(trainer: Learner) -> str | None:
    """Return the metric that judges the predictions of a trainer's objective.

    :return: the pinball loss of a quantile, NDCG@10 of a ranking, or the deviance of an objective for counts or positive
        amounts; ``None`` if the objective learns something else or is not known, or for an objective or a parameter
        that is a template and is not rendered yet
    :raises ValueError: the quantile is missing or not a number from 0.0001 to 0.9999, or the objective learns several
        quantiles
    """
    group = getattr(trainer, "group", None)
    if group is not None:
        name = f"{rankings.NDCG}_k{_RANKED}_by-{group}"
        # A column with another name, such as one with a space, cannot be part of the name of a metric.
        return name if rankings.ranking_of(name) is not None else None
    alpha = quantile_of(trainer)
    return deviance_of(trainer) if alpha is None else name_of(alpha)


def knows_objective(trainer: Learner) -> bool:
    """Return whether the objective of the trainer is known. It is not known for a user's code and for a network."""
    return getattr(trainer, "kind", None) in ("sklearn", *_OBJECTIVES)


def deviance_of(trainer: Learner) -> str | None:
    """Return the name of the deviance that the objective of a trainer minimises.

    :return: ``None`` if the objective minimises something else, if there is no metric for its power, or if it is a
        template that is not rendered yet
    """
    power = _power_of(trainer)
    try:
        return None if power is None else deviances.name_of(float(power))
    except (TypeError, ValueError):
        return None


def _power_of(trainer: Learner) -> Any:
    kind, params = str(getattr(trainer, "kind", None)), trainer.params
    if kind in _OBJECTIVES:
        objective = params.get("loss_function" if kind == "catboost" else "objective")
        if objective in ("tweedie", "reg:tweedie"):
            return params.get("tweedie_variance_power", _POWER)
        if (found := _CATBOOST_TWEEDIE.fullmatch(str(objective))) is not None:
            return found[1]
        return _OBJECTIVES[kind].get(str(objective).partition(":")[0] if kind == "catboost" else str(objective))
    if kind != "sklearn":
        return None
    name = trainer.path.rpartition(".")[2]
    if name == "HistGradientBoostingRegressor":
        return {"poisson": 1.0, "gamma": 2.0}.get(str(params.get("loss")))
    if name in _FORESTS:
        return 1.0 if params.get("criterion") == "poisson" else None
    if name == "TweedieRegressor":
        return params.get("power", 0.0)
    if name == "ExplainableBoostingRegressor":
        objective = str(params.get("objective"))
        if (found := _EBM_TWEEDIE.fullmatch(objective)) is not None:
            return found[1] or _POWER
        return {"poisson_deviance": 1.0, "gamma_deviance": 2.0}.get(objective)
    return {"PoissonRegressor": 1.0, "GammaRegressor": 2.0}.get(name)


def quantile_of(trainer: Learner) -> float | None:
    """Return the quantile that the objective of a trainer learns.

    :return: ``None`` if the objective does not learn a quantile, or if the quantile is a template that is not rendered
        yet
    :raises ValueError: the quantile is missing or not a number from 0.0001 to 0.9999, or the objective learns several
        quantiles
    """
    kind, params = getattr(trainer, "kind", None), trainer.params
    if kind == "lightgbm" and params.get("objective") == "quantile":
        # The default of LightGBM is 0.9.
        value = params.get("alpha", 0.9)
    elif kind == "xgboost" and params.get("objective") == "reg:quantileerror":
        value = only_quantile(params.get("quantile_alpha"))
    elif kind == "catboost" and (found := _CATBOOST_QUANTILE.fullmatch(str(params.get("loss_function")))) is not None:
        value = found[1] or 0.5
    elif kind != "sklearn":
        return None
    elif params.get("loss") == "quantile":
        histograms = trainer.path.endswith("HistGradientBoostingRegressor")
        value = params.get("quantile") if histograms else params.get("alpha", 0.9)
    elif trainer.path.endswith("QuantileRegressor"):
        value = params.get("quantile", 0.5)
    else:
        return None
    if isinstance(value, str) and "{{" in value:
        # A template of a DAG file, which is rendered before the step runs.
        return None
    try:
        alpha = float(value)
    except (TypeError, ValueError):
        alpha = math.nan
    if not 0.0001 <= alpha <= 0.9999:
        raise ValueError(f"the objective learns the quantile {value!r}, which is not a number from 0.0001 to 0.9999")
    return alpha


def only_quantile(value: Any) -> Any:
    """Return the quantile in XGBoost's parameter ``quantile_alpha``.

    The parameter is a number, a list with one number, or one of these as text.

    :raises ValueError: the parameter is missing, or has several quantiles
    """
    if value is None:
        raise ValueError(
            "`params` has objective='reg:quantileerror' without the quantile; set for example quantile_alpha=0.9"
        )
    listed = value.strip("[]() ").split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        return value
    if len(listed) != 1:
        raise ValueError(
            f"`params` has quantile_alpha={value!r}, but a model has one prediction for each row; set one quantile, and train one "
            "model for each quantile"
        )
    return listed[0]
