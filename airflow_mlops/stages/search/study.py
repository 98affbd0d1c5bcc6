"""The study behind a search: where Optuna keeps it, what it chooses, and whose trials are whose."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from airflow_mlops.core.connections import ConnectionInfo, redact, sqlalchemy_url
from airflow_mlops.core.errors import SpecError, StoreError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.models.trainers.space import CategoricalSpec, IntSpec, ParameterSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.spec import SearchSpec

# Attributes of a trial: the task that runs it, the trial it repeats, its MLflow run, why it failed.
TASK, ORIGIN, RUN, ERROR = "task", "origin", "run", "error"
HEARTBEAT_SECONDS = 60
# A trial that ended its worker is tried once more.
_REPEATS = 1
_ERROR_CHARACTERS = 500
_ATTEMPTS, _PAUSE = 5, 1.0


class SearchStudy:
    """One worker's view of the study that all workers of a search share.

    :param key: folder of the search in the store
    :param metric: what is compared
    :param lost: is told the MLflow run of each trial whose worker died
    """

    Pruned = optuna.TrialPruned

    def __init__(
        self, spec: SearchSpec, context: StepContext, key: str, metric: str, lost: Callable[[str | None], None]
    ) -> None:
        self._search, self._lost = spec.search, lost
        # Only one process at a time runs a task, so what it left running has ended.
        self.task = str(context.provenance.map_index)
        self.name = f"{context.provenance.task_id or 'search'}-{fingerprint([context.store.url, key])[:32]}"
        conn_id = spec.search.storage_conn_id
        self._info = context.connection(conn_id) if conn_id else None
        # Each trial is told of by the worker, and to the task's log.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with self.errors():
            self.study = optuna.create_study(
                study_name=self.name,
                storage=_database(self._info, self._stale) if self._info else _journal(context, key),
                direction="maximize" if METRICS[metric].higher_is_better else "minimize",
                pruner=optuna.pruners.MedianPruner() if spec.search.pruner else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            # A worker that starts again must not choose what it chose before.
            seen = sum(trial.user_attrs.get(TASK) == self.task for trial in self._trials())
            seed = int(np.random.SeedSequence([spec.seed, spec.worker, seen]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            self._recover()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what the database raises inside the block into an error of ours."""
        if self._info is None:
            yield
            return
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
            raise _unusable(self._info, cause or error) from None

    def is_taken(self) -> bool:
        """Whether all trials are finished or being run."""
        taken = [
            trial
            for trial in self._trials()
            if _counts(trial) or (trial.state == TrialState.RUNNING and TASK in trial.user_attrs)
        ]
        return len(taken) >= self._search.trials

    def is_over(self) -> bool:
        """Whether all trials are finished."""
        trials = self._trials()
        return sum(map(_counts, trials)) >= self._search.trials and all(
            trial.state != TrialState.RUNNING or TASK not in trial.user_attrs for trial in trials
        )

    def run(self, objective: Callable[[optuna.Trial], float], survives: tuple[type[Exception], ...]) -> None:
        """Run one trial.

        :param survives: what only fails the trial
        """
        with self.errors():
            self.study.optimize(objective, n_trials=1, catch=survives)

    def choose(self, trial: optuna.Trial) -> dict[str, Any]:
        """The values of one trial."""
        trial.set_user_attr(TASK, self.task)
        if ORIGIN not in trial.user_attrs:
            trial.set_user_attr(ORIGIN, trial.number)
        # In one order, however the space came here.
        return {name: _suggest(trial, name, self._search.space[name]) for name in sorted(self._search.space)}

    def run_of(self, trial: optuna.Trial) -> str | None:
        """The MLflow run of a trial that is repeated."""
        found = trial.user_attrs.get(RUN)
        return None if found is None else str(found)

    def set_run(self, trial: optuna.Trial, run_id: str) -> None:
        trial.set_user_attr(RUN, run_id)

    def origin(self, trial: optuna.Trial) -> int:
        """The number of the trial that this one repeats, or its own."""
        return int(trial.user_attrs[ORIGIN])

    def set_error(self, trial: optuna.Trial, error: str) -> None:
        trial.set_user_attr(ERROR, error[:_ERROR_CHARACTERS])

    def report(self, trial: optuna.Trial, step: int, value: float, *, last: bool) -> None:
        """What a trial is worth so far.

        :raises Pruned: it is not worth going on
        """
        trial.report(value, step)
        if not last and trial.should_prune():
            raise optuna.TrialPruned

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values behind what Optuna calls a trial's params."""
        return {name: _value(self._search.space[name], found) for name, found in params.items()}

    def best(self) -> FrozenTrial | None:
        """The best trial that was completed, the first of several."""
        found = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        sign = -1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return min(found, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)

    def counts(self) -> dict[str, int]:
        """How many trials are complete, pruned and failed."""
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        trials = [trial for trial in self._trials() if _counts(trial)]
        return {name: sum(trial.state == state for trial in trials) for name, state in states.items()}

    def first_error(self) -> str:
        """Why the first trial failed that did."""
        return next((str(trial.user_attrs[ERROR]) for trial in self._trials() if ERROR in trial.user_attrs), "")

    def importances(self) -> dict[str, float]:
        """By how much each parameter decides, all together 1 (PED-ANOVA); empty where that cannot be said."""
        values = {trial.value for trial in self._trials() if trial.state == TrialState.COMPLETE}
        if len(values) < 2:
            return {}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return optuna.importance.get_param_importances(
                    self.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                )
        except (ValueError, RuntimeError):
            return {}

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _recover(self) -> None:
        """Put the trials that an earlier try of this task could not end first in the queue."""
        trials = self._trials()
        repeated = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        for trial in trials:
            if trial.user_attrs.get(TASK) != self.task or trial.number in repeated:
                continue
            if trial.state == TrialState.RUNNING:
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except ValueError:
                    # Another worker missed its heartbeat and was faster.
                    continue
            elif trial.state != TrialState.FAIL or ERROR in trial.user_attrs:
                continue
            self._stale(self.study, trial)

    def _stale(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._lost(trial.user_attrs.get(RUN))
        RetryHeartbeatStaleTrialCallback(max_retry=_REPEATS)(study, trial)


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for. One whose worker died is not."""
    if trial.state == TrialState.FAIL:
        return ERROR in trial.user_attrs
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _suggest(trial: optuna.Trial, name: str, parameter: ParameterSpec) -> Any:
    if isinstance(parameter, CategoricalSpec):
        return _value(parameter, trial.suggest_categorical(name, parameter.labels))
    if isinstance(parameter, IntSpec):
        return trial.suggest_int(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step, log=parameter.log)


def _value(parameter: ParameterSpec, found: Any) -> Any:
    return parameter.choices[parameter.labels.index(found)] if isinstance(parameter, CategoricalSpec) else found


def _journal(context: StepContext, key: str) -> BaseStorage:
    file = context.store.local_path(f"{key}/study.journal")
    if file is None:
        raise SpecError(
            f"The artifact store {context.store.url} is no file system in which workers can share a study: give the "
            "Search storage_conn_id=, the Airflow connection of a PostgreSQL or MySQL database."
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(file)))
    except OSError as error:
        raise StoreError(f"The study {file} cannot be opened: {error}.") from error


def _database(info: ConnectionInfo, stale: Callable[[optuna.Study, FrozenTrial], None]) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    if info.conn_type == "sqlite":
        raise SpecError(
            f"Connection {info.conn_id!r} is a SQLite file, which several workers cannot share: leave out "
            "storage_conn_id where the artifact store is a folder, or name a PostgreSQL or MySQL database."
        )
    url = sqlalchemy_url(info).render_as_string(hide_password=False)
    for attempt in range(_ATTEMPTS):
        try:
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_SECONDS,
                heartbeat_stale_trial_callback=stale,
            )
        except (ImportError, ArgumentError, NoSuchModuleError) as error:
            raise SpecError(
                f"Connection {info.conn_id!r} is of type {info.conn_type}, for which no SQLAlchemy dialect and driver "
                f"is installed where the step runs ({type(error).__name__}): install it there."
            ) from None
        except SQLAlchemyError as error:
            # Workers that start together make Optuna's tables together, and one of them is first.
            if attempt + 1 == _ATTEMPTS:
                raise _unusable(info, error) from None
        time.sleep(_PAUSE)
    raise AssertionError


def _unusable(info: ConnectionInfo, error: BaseException) -> StoreError:
    reason = str(error).partition("\n[SQL:")[0].partition("\n(Background on")[0]
    return StoreError(
        f"The study cannot be kept in the database of connection {info.conn_id!r}: {redact(reason, info)}."
    )
