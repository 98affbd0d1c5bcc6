"""Replay retraining decisions over labelled windows, beside never retraining, retraining every window, and an oracle.

The replay runs no Airflow tasks. It trains the models of all strategies on the same windows:

- Before the first monitored window, one model is trained on all windows so far. It is the first champion of every strategy.
- After each window, the newest window whose labels have arrived is known. A training fits one candidate for each past of
  :data:`~airflow_mlops.performance.cross_fitting.PASTS`, chooses a past, and fits the candidate again on all its rows.
  The new model predicts from the next window on.
- The chosen past has the smallest loss that is expected in the next window: the cross-fitted loss in the known window,
  plus the mean, over all earlier windows, of what a model with this past lost until the next window. The first follows a
  change at once, but alone it prefers short pasts too much, because a model that knows half of a window profits from what
  only this window has. The second finds the pasts whose models last.
- ``never`` keeps the first model, ``every window`` trains after each window, and ``policy`` trains if the policy asks for
  it. The ``oracle`` predicts each window with the best of all models trained before it, chosen with the window's labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING

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
    Fit,
    Fitted,
    Trained,
    champion_losses,
    compare_all,
    train,
    value_of,
)
from airflow_mlops.performance.gains import best_gain, windows_between
from airflow_mlops.policy.checks import days
from airflow_mlops.policy.retraining import limited, request_id
from airflow_mlops.policy.spec import Policy, Trigger
from airflow_mlops.stages.backtest.spec import Replayed, Step

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_NAME = "replay"


@dataclass(frozen=True)
class Period:
    """A window with its labelled rows.

    :param rows: the features and the column ``label``, in order of time
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    """

    window: Window
    rows: pa.Table
    groups: NDArray[np.int64] | None = None


@dataclass
class Replay:
    """Replays strategies over labelled windows. Trainings that several strategies need are done once.

    :param fit: fits the trainer to rows
    :param contract: names the ML task and the features
    :param periods: all windows, in order of time and without gaps
    :param first: number of windows on which the first champion is trained
    :param delay: number of windows until the labels of a window have arrived; 0 if they are known at its end
    :param metric: one of :data:`airflow_mlops.metrics.catalog.REALISED`
    """

    fit: Fit
    contract: ModelContract
    periods: Sequence[Period]
    first: int
    delay: int
    metric: str
    _trained: dict[int, Trained | None] = field(default_factory=dict)
    _models: dict[tuple[int, int | None], Fitted] = field(default_factory=dict)
    _measured: dict[tuple[int, int | None, int], tuple[float, float]] = field(default_factory=dict)
    _ages: dict[tuple[int, int | None], float | None] = field(default_factory=dict)
    _compared: dict[tuple[int, int | None, int], NDArray[np.float64]] = field(default_factory=dict)

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
            steps.append(min((self._step(number, model) for model in models), key=lambda step: step.loss))
        return Replayed(strategy="oracle", steps=steps)

    def policy(self, policy: Policy) -> Replayed:
        """Replay a retraining policy, with the triggers ``challenger`` and ``age`` and all limits."""
        steps: list[Step] = []
        champion, version, served = self._start, 1, []
        compared: list[tuple[int, Comparison]] = []
        requests: list[Request] = []
        active_before: list[Mapping[Trigger, str]] = []
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
            if "challenger" in policy.retrain_on and policy.probe is not None and due:
                comparison = self._compare(champion, version, known)
                earlier = [(windows_between(self._window(at), self._window(known)), item) for at, item in compared]
                if comparison is not None:
                    if best_gain(comparison, earlier, policy.confidence, policy.min_gain) is not None:
                        active["challenger"] = "a challenger is better"
                    compared.append((known, comparison))
            age = (self._window(number).end - self._window(champion[0]).end) / timedelta(days=1)
            if policy.max_age is not None and age > days(policy.max_age):
                active["age"] = "the training data are old"
            planned = limited(_NAME, self._window(number), policy, active, active_before, requests)
            active_before.append(active)
            if planned.is_requested:
                requests.append(_request(self._window(number), list(active)))
                champion, version = (known, self.winner(known)), version + 1
            fields = {
                **dict(step),
                "trained": planned.is_requested,
                "triggers": list(active),
                "compared": comparison is not None,
            }
            steps.append(Step(**fields))
        return Replayed(strategy="policy", steps=self._judged(steps, served))

    def _judged(self, steps: Sequence[Step], served: Sequence[tuple[int, int | None]]) -> list[Step]:
        """Say for each training whether it helped: whether the replaced model would have had a larger loss afterwards.

        :param served: the model that predicted each window
        """
        found = list(steps)
        trained = [index for index, step in enumerate(steps) if step.trained]
        for index, following in zip(trained, [*trained, len(steps) - 1][1:], strict=True):
            until = range(index + 1, following + 1)
            if not until:
                continue
            kept = [self._step(self.first + later, served[index]).loss for later in until]
            helped = sum(steps[later].loss for later in until) < sum(kept)
            found[index] = steps[index].model_copy(update={"helped": helped})
        return found

    @property
    def _monitored(self) -> range:
        return range(self.first, len(self.periods))

    @cached_property
    def _start(self) -> tuple[int, int | None]:
        return self.first - 1, self.winner(self.first - 1)

    def _window(self, number: int) -> Window:
        return self.periods[number].window

    def _span(self, earlier: int, later: int) -> timedelta:
        return self._window(later).start - self._window(earlier).start

    def _rows(self, number: int, past: int | None, own: bool) -> pa.Table:
        """Return the rows of the ``past`` windows that end with window ``number``, with or without this window's own."""
        start = 0 if past is None else max(0, number + 1 - past)
        tables = [period.rows for period in self.periods[start : number + own]]
        empty = self.periods[number].rows.slice(0, 0)
        return concatenated([empty, *tables], "The windows", "Write the windows with the same types.")

    def _challengers(self, number: int) -> Trained | None:
        """Return the challengers of window ``number``; ``None`` if no loss is defined, such as in a window of one class."""
        if number not in self._trained:
            older: dict[int | None, pa.Table] = {}
            for past in PASTS:
                rows = self._rows(number, past, own=False)
                if all(rows.num_rows != other.num_rows for other in older.values()):
                    older[past] = rows
            try:
                self._trained[number] = train(
                    self.fit, self.periods[number].rows, older, self.metric, self.periods[number].groups
                )
            except UnmeasurableError:
                self._trained[number] = None
        return self._trained[number]

    def winner(self, number: int) -> int | None:
        """Return the past of the best candidate after window ``number``; ``None`` (all windows) without challengers."""
        trained = self._challengers(number)
        if trained is None:
            return None
        found = {past: float(known.mean()) + self._ageing(number, past) for past, known in trained.losses.items()}
        return min(found, key=lambda past: found[past])

    def _ageing(self, number: int, past: int | None) -> float:
        """Return the mean over the windows before ``number`` of what a model loses until the next window; 0 without them."""
        known = [self._aged(earlier, past) for earlier in range(1, number)]
        found = [loss for loss in known if loss is not None]
        return fmean(found) if found else 0.0

    def _aged(self, number: int, past: int | None) -> float | None:
        """Return the loss in window ``number`` of the model that was trained before it, minus the cross-fitted loss.

        :return: ``None`` if a loss is not defined, such as in a window of one class
        """
        if (number, past) not in self._ages:
            trained = self._challengers(number)
            # A past that is as long as the history is the whole history.
            crossed = None if trained is None else trained.losses.get(past, trained.losses.get(None))
            try:
                self._ages[number, past] = (
                    None if crossed is None else self._step(number, (number - 1, past)).loss - float(crossed.mean())
                )
            except TrainingError:
                self._ages[number, past] = None
        return self._ages[number, past]

    def _model(self, model: tuple[int, int | None]) -> Fitted:
        number, past = model
        # A past that is as long as the history is the whole history.
        key = number, None if past is None or past > number else past
        if key not in self._models:
            self._models[key] = self.fit(self._rows(*key, own=True))
        return self._models[key]

    def _compare(self, model: tuple[int, int | None], version: int, number: int) -> Comparison | None:
        trained = self._challengers(number)
        if trained is None:
            return None
        ref, key = ModelVersionRef(model=_NAME, version=version, run_id=""), (*model, number)
        if key not in self._compared:
            fitted = self._model(model)
            champion = Champion(ref, fitted.contract, fitted.predict)
            self._compared[key] = champion_losses(
                champion, self.periods[number].rows, self.metric, self.periods[number].groups
            )
        groups = self.periods[number].groups
        return compare_all(ref, self._compared[key], trained, self.metric, number - model[0], groups)

    def _step(self, number: int, model: tuple[int, int | None], trained: bool = False) -> Step:
        key = (*model, number)
        if key not in self._measured:
            fitted, rows = self._model(model), self.periods[number].rows
            found = losses(self.metric, fitted.contract, rows.column(LABEL), fitted.predict(rows))
            self._measured[key] = float(found.mean()), value_of(self.metric, found)
        loss, value = self._measured[key]
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
