"""Train challengers and compare them with the champion on the same labelled rows, by two-fold cross-fitting.

A challenger that is trained only on rows before the compared window cannot learn a change inside the window. If a
challenger is trained on the compared rows themselves, its measured performance is too optimistic. The window is
therefore divided into an earlier and a later half. Each challenger is trained twice: on the older rows and one half of
the window, to predict the other half.

If rows are clustered, such as the orders of one customer, all rows of a cluster are in the same half. Otherwise,
training on some rows of a cluster would reveal too much about the others (H. Chiang, K. Kato, Y. Ma and Y. Sasaki,
"Multiway Cluster Robust Double/Debiased Machine Learning", Journal of Business & Economic Statistics 40, 2022).

Source of cross-fitting: V. Chernozhukov et al., "Double/debiased machine learning for treatment and structural
parameters", The Econometrics Journal 21 (2018), section 3.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.types import concatenated
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.refitting import losses
from airflow_mlops.performance.challenger import Comparison, OtherTrainer
from airflow_mlops.performance.gains import compare
from airflow_mlops.performance.joint import correlations_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("airflow_mlops.stages")


class Fitted(Protocol):
    """A fitted model, such as :class:`airflow_mlops.models.refitting.Refitted`.

    :param contract: model contract. Its classes are those of the rows that the model was fitted to
    """

    @property
    def contract(self) -> ModelContract: ...

    def predict(self, rows: pa.Table) -> Predictions:
        """Predict every row of ``rows``.

        :raises TrainingError: the model cannot predict the rows
        """


Fit = Callable[[pa.Table], Fitted]
"""Fits a trainer to rows with the features and the column ``label``."""
Fits = Mapping[OtherTrainer | None, Fit]
"""The trainers of challengers. The key of the champion's trainer is ``None``."""
PASTS: tuple[int | None, ...] = (None, 3, 1)
"""The numbers of windows that challengers are trained on, including the compared window; ``None`` for all windows."""


class Recipe(NamedTuple):
    """How a challenger is trained.

    :param trainer: the trainer; ``None`` for the champion's trainer
    :param past: number of windows that the challenger is trained on, including the compared window; ``None`` for all
        windows
    """

    trainer: OtherTrainer | None
    past: int | None


@dataclass(frozen=True)
class Champion:
    """The champion and its predictions.

    :param ref: the champion
    :param contract: model contract of the champion
    :param predict: returns the champion's predictions for rows of the compared window
    """

    ref: ModelVersionRef
    contract: ModelContract
    predict: Callable[[pa.Table], Predictions]


@dataclass(frozen=True)
class Trained:
    """The challengers of a window, before the comparison with a champion.

    :param losses: the loss of each row of the window by each challenger, shape (n,)
    :param rows: number of rows that each challenger was trained on
    :param groups: the number of the cluster of each row, in the order of the losses, shape (n,); ``None`` for
        independent rows
    """

    losses: dict[Recipe, NDArray[np.float64]]
    rows: dict[Recipe, int]
    groups: NDArray[np.int64] | None = None


def train(
    fits: Fits,
    current: pa.Table,
    older: Mapping[int | None, pa.Table],
    metric: str,
    groups: NDArray[np.int64] | None = None,
) -> Trained:
    """Train a challenger for each trainer and set of older rows, and measure its loss on each row of ``current``.

    A challenger that cannot be trained is left out.

    :param fits: the trainers
    :param current: the labelled rows of the compared window in order of time: the features and the column ``label``
    :param older: the labelled rows before the compared window, by the number of windows that a challenger is trained on
    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, or an expected cost
    :param groups: the number of the cluster of each row of ``current``, shape (n,); ``None`` for independent rows
    :return: the losses, in the order of :func:`halves`
    :raises UnmeasurableError: no challenger can be trained, or all rows are of one cluster
    """
    parts = halves(current, groups)
    started = time.perf_counter()
    found: dict[Recipe, NDArray[np.float64]] = {}
    trained: dict[Recipe, int] = {}
    failure: Exception | None = None
    for trainer, fit in fits.items():
        for past, rows in older.items():
            recipe = Recipe(trainer, past)
            try:
                found[recipe], trained[recipe] = _losses(fit, parts, rows, metric)
            except (TrainingError, UnmeasurableError) as error:
                failure = failure or error
    if not found:
        raise UnmeasurableError(f"no challenger could be trained ({failure})")
    log.info("Trained %d challengers in %.1f s.", len(found), time.perf_counter() - started)
    return Trained(found, trained, groups[_by_cluster(groups)[0]] if groups is not None else None)


def champion_losses(
    champion: Champion, current: pa.Table, metric: str, groups: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Measure the champion's loss on each row of ``current``, in the same halves as the losses of challengers.

    :param champion: the champion and its predictions
    :param current: the labelled rows of the compared window, ordered by time
    :param metric: the metric that defines the loss
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    :return: losses, in the order of :func:`halves`, shape (n,)
    :raises UnmeasurableError: the loss is not defined on the rows, or all rows are of one cluster
    """
    parts = halves(current, groups)
    return np.concatenate(
        [losses(metric, champion.contract, half.column(LABEL), champion.predict(half)) for half in parts]
    )


def compare_all(
    champion: ModelVersionRef,
    known: NDArray[np.float64],
    trained: Trained,
    metric: str,
    since_training: int,
) -> Comparison:
    """Compare the champion with all challengers.

    :param champion: the champion
    :param known: losses of the champion, shape (n,)
    :param trained: the challengers, with losses for the same rows
    :param metric: the metric that defines the losses
    :param since_training: number of windows since the end of the champion's training data, including the compared
        window
    """
    return Comparison(
        champion=champion,
        metric=metric,
        rows=len(known),
        value=value_of(metric, known),
        loss=float(known.mean()),
        challengers=[
            compare(
                known, found, recipe.past, trained.rows[recipe], value_of(metric, found), trained.groups, recipe.trainer
            )
            for recipe, found in trained.losses.items()
        ],
        correlations=correlations_of([known - found for found in trained.losses.values()], trained.groups),
        since_training=since_training,
    )


def cross_fit(
    fits: Fits,
    champion: Champion,
    current: pa.Table,
    older: Mapping[int | None, pa.Table],
    metric: str,
    since_training: int,
    groups: NDArray[np.int64] | None = None,
) -> Comparison:
    """Train challengers with :func:`train`, and compare them with the champion.

    See :func:`train`, :func:`champion_losses` and :func:`compare_all` for the parameters.

    :raises UnmeasurableError: the loss is not defined on the rows, no challenger can be trained, or all rows are of one
        cluster
    """
    known = champion_losses(champion, current, metric, groups)
    trained = train(fits, current, older, metric, groups)
    return compare_all(champion.ref, known, trained, metric, since_training)


def halves(current: pa.Table, groups: NDArray[np.int64] | None = None) -> tuple[pa.Table, pa.Table]:
    """Split rows, which are ordered by time, into an earlier and a later half.

    No cluster is split: clusters are ordered by their first row, and the cut lies between two clusters.

    :param current: the rows, ordered by time
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    :raises UnmeasurableError: all rows are of one cluster
    """
    if groups is None:
        middle = current.num_rows // 2
    else:
        order, middle = _by_cluster(groups)
        current = current.take(pa.array(order))
    return current.slice(0, middle), current.slice(middle)


def _by_cluster(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Return an order in which the rows of each cluster are adjacent, and the number of rows in the first half.

    :raises UnmeasurableError: all rows are of one cluster
    """
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise UnmeasurableError("all labelled rows belong to one group")
    order = np.argsort(first[numbers], kind="stable")
    ends = np.cumsum(np.bincount(numbers)[np.argsort(first)])[:-1]
    return order, int(ends[np.abs(ends - len(groups) / 2).argmin()])


def _losses(
    fit: Fit, parts: tuple[pa.Table, pa.Table], older: pa.Table, metric: str
) -> tuple[NDArray[np.float64], int]:
    """Return the losses of a challenger, and the larger number of rows of its two trainings."""
    found = []
    trained = 0
    for own, other in ((parts[1], parts[0]), (parts[0], parts[1])):
        tables = [older, own] if older.num_rows else [own]
        rows = concatenated(tables, "The rows of different windows", "Write the windows with the same types.")
        model = fit(rows)
        trained = max(trained, rows.num_rows)
        found.append(losses(metric, model.contract, other.column(LABEL), model.predict(other)))
    return np.concatenate(found), trained


def value_of(metric: str, losses: NDArray[np.float64]) -> float:
    """Compute the value of a metric from the losses of all rows.

    :func:`airflow_mlops.metrics.realised.losses` computes the losses.

    :param metric: the metric that determines the losses
    :param losses: losses, shape (n,)
    :return: the root of the mean loss for ``rmse``; 1 minus the mean loss if higher values of the metric are better;
        otherwise the mean loss
    """
    mean = float(losses.mean())
    if metric == "rmse":
        return math.sqrt(mean)
    return 1 - mean if find_metric(metric).higher_is_better else mean
