"""Replay retraining decisions over labelled windows, and compare them with simpler strategies and with an oracle.

The replay runs no Airflow tasks. It trains the models of all strategies on the same windows:

- Before the first monitored window, one model is trained on all windows so far. It is the first champion of every
  strategy.
- After each window, a strategy may train a model with the labels that have arrived. The training fits one candidate for
  each trainer and each number of windows in :data:`~airflow_mlops.performance.cross_fitting.PASTS` (a
  :class:`~airflow_mlops.performance.cross_fitting.Recipe`), chooses one, and fits it again on all rows of its windows.
  The new model predicts from the next window on.
- As in monitoring, candidates are compared on at most 200,000 rows of the newest window, and fitted for this comparison to at
  most 200,000 older rows. The samples are the same as in monitoring. Chosen candidates are fitted to all rows, and the
  values of windows are measured on all rows.
- The chosen candidate has the smallest expected loss in the next window, which is a sum of two terms. The first term is
  the cross-fitted loss in the newest labelled window. It reacts to a change immediately. The first term alone would
  favour candidates trained on few windows: cross-fitting trains on half of the newest window, and such candidates learn
  patterns that exist only in this window. The second term is the mean additional loss after one window. For each
  earlier window, a model is trained in the same way on the windows before it. The additional loss is the loss of this
  model in the window, minus the cross-fitted loss in the window. The second term favours candidates whose models stay
  good.
- With several trainers, the one-standard-error rule of EvaluateOperator chooses the trainer: the first trainer whose
  best candidate is at most one standard error worse than the best candidate of all trainers.
- ``never`` keeps the first model, ``every window`` trains after each window, and ``policy`` trains if the policy
  requests it. The ``oracle`` predicts each window with the best of all models trained before it, chosen with the
  window's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from airflow_mlops.core.calls import Request
from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.types import concatenated
from airflow_mlops.metrics.realised import UnmeasurableError
from airflow_mlops.models.refitting import losses
from airflow_mlops.performance.challenger import Comparison
from airflow_mlops.performance.cross_fitting import (
    PASTS,
    Champion,
    Fits,
    Fitted,
    Recipe,
    Trained,
    champion_losses,
    compare_all,
    train,
    value_of,
)
from airflow_mlops.performance.gains import best_gain, standard_error, windows_between
from airflow_mlops.policy.checks import days
from airflow_mlops.policy.retraining import limited, request_id
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.stages.backtest.spec import Replayed, Step
from airflow_mlops.stages.monitor import challengers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NAME = "replay"
# The identity of a model: the number of the window after which it was trained, and its recipe.
_Model = tuple[int, Recipe]


@dataclass(frozen=True)
class Period:
    """A window with its labelled rows.

    :param rows: the features and the column ``label``, in order of time
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    :param coverage: the share of the predictions of the window that have a label
    """

    window: Window
    rows: pa.Table
    groups: NDArray[np.int64] | None = None
    coverage: float = 1.0

    @cached_property
    def compared(self) -> Compared:
        """Return the rows on which challengers are compared. If there are many rows, monitoring uses the same random sample."""
        chosen = challengers.chosen(self.rows.num_rows)
        if chosen is None:
            return Compared(self.rows, self.groups)
        return Compared(self.rows.take(pa.array(chosen)), None if self.groups is None else self.groups[chosen])


class Compared(NamedTuple):
    """The rows of a window on which challengers are compared. The fields are those of :class:`Period`."""

    rows: pa.Table
    groups: NDArray[np.int64] | None


@dataclass
class Replay:
    """Replays strategies over labelled windows. Trainings that several strategies need are done once.

    :param fits: the trainers. The key of the first champion's trainer is ``None``
    :param contract: model contract with the ML task and the features
    :param periods: all windows, in order of time and without gaps
    :param first: number of windows on which the first champion is trained
    :param delay: number of windows until the labels of a window have arrived; 0 if they are known at its end
    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`, or an expected cost
    :ivar unmeasured: why the metric is not defined in a window with labels, such as a window of one class. Such a window
        has no value
    """

    fits: Fits
    contract: ModelContract
    periods: Sequence[Period]
    first: int
    delay: int
    metric: str
    unmeasured: dict[Window, str] = field(default_factory=dict)
    _trained: dict[int, Trained | None] = field(default_factory=dict)
    _models: dict[_Model, Fitted] = field(default_factory=dict)
    _measured: dict[tuple[_Model, int], tuple[float, float] | None] = field(default_factory=dict)
    _ages: dict[_Model, float | None] = field(default_factory=dict)
    _compared: dict[tuple[_Model, int], NDArray[np.float64]] = field(default_factory=dict)

    def never(self) -> Replayed:
        """Replay the strategy that keeps the first champion."""
        return Replayed(strategy="never", steps=[self._step(number, self._start) for number in self._monitored])

    def every_window(self) -> Replayed:
        """Replay the strategy that trains after each window."""
        steps, champion, served = [], self._start, []
        for number in self._monitored:
            known = number - self.delay
            served.append(champion)
            steps.append(self._step(number, champion, trained=known >= self.first))
            if known >= self.first:
                champion = known, self.winner(known)
        return Replayed(strategy="every window", steps=self._judged(steps, served))

    def oracle(self) -> Replayed:
        """Replay the strategy that predicts each window with the best of all models trained before it."""
        steps = []
        for number in self._monitored:
            models = [self._start, *((known, self.winner(known)) for known in range(self.first, number - self.delay))]
            steps.append(min((self._step(number, model) for model in models), key=lambda step: step.loss or 0.0))
        return Replayed(strategy="oracle", steps=steps)

    def losses_by_training(self) -> dict[int | None, list[float | None]]:
        """Return the mean loss of each monitored window for every model that a strategy can have trained before it.

        :return: a list of losses for each model. The key of the first champion is ``None``. The key of a model that is
            trained after a window is the position of this window among the monitored windows. If the labels of a window
            allow no training, the key is absent. A list has the loss of each monitored window; ``None`` for windows
            without a value, and for windows up to the training
        """
        found: dict[int | None, list[float | None]] = {
            None: [self._step(number, self._start).loss for number in self._monitored]
        }
        for position, number in enumerate(self._monitored):
            if (known := number - self.delay) >= self.first:
                model = known, self.winner(known)
                later = [self._step(window, model).loss for window in range(number + 1, len(self.periods))]
                found[position] = [*[None] * (position + 1), *later]
        return found

    def policy(self, policy: Policy) -> Replayed:
        """Replay a retraining policy: the triggers ``challenger`` and ``age``, persistence, cooldown and budget."""
        steps: list[Step] = []
        champion, version, served = self._start, 1, []
        replaced: _Model | None = None
        compared: list[tuple[int, Comparison]] = []
        requests: list[Request] = []
        active_before: list[tuple[_Model, Mapping[Trigger, str]]] = []
        for number in self._monitored:
            known = number - self.delay
            step = self._step(number, champion)
            served.append(champion)
            if known <= champion[0] or known < self.first:
                steps.append(step)
                continue
            active: dict[Trigger, str] = {}
            comparison = None
            due = not compared or self._span(compared[-1][0], known) >= (policy.probe or timedelta(0))
            period = self.periods[known]
            due &= period.rows.num_rows >= policy.min_labels and period.coverage >= policy.min_coverage
            if "challenger" in policy.retrain_on and policy.probe is not None and due:
                comparison = self._compare(champion, version, known, replaced)
                earlier = [(windows_between(self._window(at), self._window(known)), item) for at, item in compared]
                if comparison is not None:
                    if best_gain(comparison, earlier, policy.confidence, policy.min_gain) is not None:
                        active["challenger"] = "a challenger is better"
                    compared.append((known, comparison))
                    replaced = None
            age = (self._window(number).end - self._window(champion[0]).end) / timedelta(days=1)
            if policy.max_age is not None and age > days(policy.max_age):
                active["age"] = "the training data are old"
            # As in monitoring, only windows that the same model predicted count for persistence.
            scored_by = served[known - self.first]
            before: list[Mapping[Trigger, str]] = [item if by == scored_by else {} for by, item in active_before]
            planned = limited(_NAME, self._window(number), policy, active, before, requests)
            active_before.append((scored_by, active))
            if planned.is_requested:
                requests.append(_request(self._window(number), list(active)))
                champion, version, replaced = (known, self.winner(known)), version + 1, champion
            fields = {
                **dict(step),
                "trained": planned.is_requested,
                "triggers": list(active),
                "compared": comparison is not None,
            }
            steps.append(Step(**fields))
        return Replayed(strategy="policy", steps=self._judged(steps, served))

    def _judged(self, steps: Sequence[Step], served: Sequence[_Model]) -> list[Step]:
        """Set ``helped`` of each step with a training.

        A training helped if the replaced model would have had a larger loss until the next training.

        :param steps: the steps of a strategy, in order of time
        :param served: the model that predicted each window
        """
        found = list(steps)
        trained = [index for index, step in enumerate(steps) if step.trained]
        for index, following in zip(trained, [*trained, len(steps) - 1][1:], strict=True):
            until = range(index + 1, following + 1)
            if not until:
                continue
            kept = [self._step(self.first + later, served[index]).loss or 0.0 for later in until]
            helped = sum(steps[later].loss or 0.0 for later in until) < sum(kept)
            found[index] = steps[index].model_copy(update={"helped": helped})
        return found

    @property
    def _monitored(self) -> range:
        return range(self.first, len(self.periods))

    @cached_property
    def _start(self) -> _Model:
        return self.first - 1, self.winner(self.first - 1)

    def _window(self, number: int) -> Window:
        return self.periods[number].window

    def _span(self, earlier: int, later: int) -> timedelta:
        return self._window(later).start - self._window(earlier).start

    def _rows(self, number: int, past: int | None, own: bool) -> pa.Table:
        """Return the rows of the last ``past`` windows up to window ``number``.

        :param past: number of windows, including window ``number``; ``None`` for all windows
        :param own: whether the rows of window ``number`` itself are included
        """
        start = 0 if past is None else max(0, number + 1 - past)
        tables = [period.rows for period in self.periods[start : number + own]]
        empty = self.periods[number].rows.slice(0, 0)
        return concatenated([empty, *tables], "The windows", "Write the windows with the same types.")

    def _challengers(self, number: int) -> Trained | None:
        """Return the challengers of window ``number``; ``None`` if no loss is defined, as in a window of one class."""
        if not self.periods[number].rows.num_rows:
            return None
        if number not in self._trained:
            older: dict[int | None, pa.Table] = {}
            for past in PASTS:
                rows = self._rows(number, past, own=False)
                if all(rows.num_rows != other.num_rows for other in older.values()):
                    older[past] = rows
            current, groups = self.periods[number].compared
            sampled = {past: challengers.sampled(rows) for past, rows in older.items()}
            try:
                self._trained[number] = train(self.fits, current, sampled, self.metric, groups)
            except UnmeasurableError:
                self._trained[number] = None
        return self._trained[number]

    def winner(self, number: int) -> Recipe:
        """Return the best candidate after window ``number``.

        If no loss is defined in the window, return the candidate with the trainer of the first champion, trained on all
        windows.
        """
        trained = self._challengers(number)
        if trained is None:
            return Recipe(None, None)
        found = {recipe: float(known.mean()) + self._ageing(number, recipe) for recipe, known in trained.losses.items()}
        best = min(found, key=lambda recipe: found[recipe])
        for trainer in self.fits:
            own = min((item for item in found if item.trainer == trainer), key=lambda item: found[item], default=best)
            error = standard_error(trained.losses[own] - trained.losses[best], trained.groups)
            if trainer == best.trainer or found[own] - found[best] <= error:
                return own
        return best

    def _ageing(self, number: int, recipe: Recipe) -> float:
        """Return the mean additional loss (:meth:`_aged`) in the windows before ``number``; 0 if no value is known."""
        known = [self._aged(earlier, recipe) for earlier in range(1, number)]
        found = [loss for loss in known if loss is not None]
        return fmean(found) if found else 0.0

    def _aged(self, number: int, recipe: Recipe) -> float | None:
        """Return the additional loss of a candidate one window after its training.

        This is the loss of the model that was trained before window ``number``, minus the cross-fitted loss, both
        measured in this window.

        :return: ``None`` if a loss is not defined, such as in a window of one class
        """
        if (number, recipe) not in self._ages:
            trained = self._challengers(number)
            # If there are at most ``past`` windows, the candidate trained on all windows has the same rows. Only that
            # candidate was trained.
            whole = recipe._replace(past=None)
            crossed = None if trained is None else trained.losses.get(recipe, trained.losses.get(whole))
            try:
                loss = None if crossed is None else self._step(number, (number - 1, recipe)).loss
            except TrainingError:
                loss = None
            self._ages[number, recipe] = None if loss is None or crossed is None else loss - float(crossed.mean())
        return self._ages[number, recipe]

    def _model(self, model: _Model) -> Fitted:
        number, (trainer, past) = model
        # If there are at most ``past`` windows, the model trained on all windows is the same.
        past = None if past is None or past > number else past
        key = number, Recipe(trainer, past)
        if key not in self._models:
            self._models[key] = self.fits[trainer](self._rows(number, past, own=True))
        return self._models[key]

    def _compare(self, model: _Model, version: int, number: int, replaced: _Model | None) -> Comparison | None:
        """Compare a champion with the challengers of a window; ``None`` if no loss is defined.

        :param replaced: the model that the champion replaced, if this is the first comparison of the champion
        """
        trained = self._challengers(number)
        if trained is None:
            return None
        ref = ModelVersionRef(model=_NAME, version=version, run_id="")
        found = compare_all(ref, self._losses(model, number), trained, self.metric, number - model[0])
        if replaced is None:
            return found
        return found.model_copy(update={"replaced_loss": float(self._losses(replaced, number).mean())})

    def _losses(self, model: _Model, number: int) -> NDArray[np.float64]:
        """Return the losses of a model in a window, in the order of the losses of the challengers."""
        if (model, number) not in self._compared:
            fitted = self._model(model)
            ref = ModelVersionRef(model=_NAME, version=1, run_id="")
            champion = Champion(ref, fitted.contract, fitted.predict)
            current, groups = self.periods[number].compared
            self._compared[model, number] = champion_losses(champion, current, self.metric, groups)
        return self._compared[model, number]

    def _step(self, number: int, model: _Model, trained: bool = False) -> Step:
        key, rows = (model, number), self.periods[number].rows
        if not rows.num_rows:
            return Step(window=self._window(number), loss=None, value=None, trained=trained)
        if key not in self._measured:
            fitted = self._model(model)
            try:
                found = losses(self.metric, fitted.contract, rows.column(LABEL), fitted.predict(rows))
                self._measured[key] = float(found.mean()), value_of(self.metric, found)
            except UnmeasurableError as error:
                self.unmeasured[self._window(number)] = str(error)
                self._measured[key] = None
        loss, value = self._measured[key] or (None, None)
        return Step(window=self._window(number), loss=loss, value=value, trained=trained)


def _request(window: Window, triggers: list[Trigger]) -> Request:
    return Request(
        id=request_id(_NAME, window),
        model=_NAME,
        triggers=list(triggers),
        reason="replayed",
        window=window,
        created=datetime(1970, 1, 1, tzinfo=timezone.utc),
    )
