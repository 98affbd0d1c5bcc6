"""The Optuna study of a search. All workers of the search share the study."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.isolation import no_warnings
from airflow_mlops.metrics.catalog import Metric
from airflow_mlops.models.trainers.space import CategoricalSpec, IntSpec, ParameterSpec
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.spec import SearchSpec
from airflow_mlops.stages.search.storage import database_errors, open_database, open_journal

# Attributes of a trial: map index of its task, number of the trial that it repeats, id of its MLflow run, and its
# error.
TASK, ORIGIN, RUN, ERROR = "task", "origin", "run", "error"
# Number of times that a trial is repeated after its worker crashed.
_REPEATS = 1
_ERROR_CHARACTERS = 500


class Study:
    """One worker's access to the Optuna study that all workers of a search share.

    :param spec: parameters of the search
    :param context: context of the step
    :param key: folder of the search in the artifact store
    :param metric: the metric to optimise
    :param lost: function that is called for each trial whose worker crashed, with the id of the trial's MLflow run or
        ``None``
    """

    Pruned = optuna.TrialPruned

    def __init__(
        self, spec: SearchSpec, context: StepContext, key: str, metric: Metric, lost: Callable[[str | None], None]
    ) -> None:
        self._search, self._lost = spec.search, lost
        # A task instance runs in only one process at a time, so a trial that an earlier process left running has ended.
        self.task = str(context.provenance.map_index)
        self.name = f"{context.provenance.task_id or 'search'}-{fingerprint([context.store.url, key])[:32]}"
        conn_id = spec.search.storage_conn_id
        self._info = context.connection(conn_id) if conn_id else None
        # Optuna's own messages are switched off, because the worker logs each trial.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with database_errors(self._info):
            self.study = optuna.create_study(
                study_name=self.name,
                storage=open_database(self._info, self._repeat) if self._info else open_journal(context.store, key),
                direction="maximize" if metric.higher_is_better else "minimize",
                pruner=optuna.pruners.MedianPruner() if spec.search.pruner else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )
            # A restarted worker must not choose the same parameters again.
            seen = sum(trial.user_attrs.get(TASK) == self.task for trial in self._trials())
            self.is_resumed = seen > 0
            seed = int(np.random.SeedSequence([spec.seed, spec.worker, seen]).generate_state(1)[0])
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            self._recover()

    def is_taken(self) -> bool:
        """Return whether the search needs no further trial, because enough trials are finished or running."""
        taken = [
            trial
            for trial in self._trials()
            if _counts(trial) or (trial.state == TrialState.RUNNING and TASK in trial.user_attrs)
        ]
        return len(taken) >= self._search.trials

    def is_finished(self) -> bool:
        """Return whether enough trials are finished and no trial is running."""
        trials = self._trials()
        return sum(map(_counts, trials)) >= self._search.trials and all(
            trial.state != TrialState.RUNNING or TASK not in trial.user_attrs for trial in trials
        )

    def run(self, objective: Callable[[optuna.Trial], float], survives: tuple[type[Exception], ...]) -> None:
        """Run one trial.

        :param objective: function that runs the trial and returns the value of the metric
        :param survives: types of exceptions after which the trial counts as failed and the search continues
        :raises StoreError: the database of the study cannot be used
        """
        with database_errors(self._info):
            self.study.optimize(objective, n_trials=1, catch=survives)

    def choose(self, trial: optuna.Trial) -> dict[str, Any]:
        """Choose the parameters of a trial with Optuna's sampler, and return them by name."""
        trial.set_user_attr(TASK, self.task)
        if ORIGIN not in trial.user_attrs:
            trial.set_user_attr(ORIGIN, trial.number)
        # The sampler needs the parameters in the same order in every trial.
        return {name: _suggest(trial, name, self._search.space[name]) for name in sorted(self._search.space)}

    def run_of(self, trial: optuna.Trial) -> str | None:
        """Return the id of the trial's MLflow run; ``None`` for a new trial, which has no run yet."""
        found = trial.user_attrs.get(RUN)
        return None if found is None else str(found)

    def runs(self) -> set[str]:
        """Return the ids of the MLflow runs of all trials."""
        return {str(trial.user_attrs[RUN]) for trial in self._trials() if RUN in trial.user_attrs}

    def set_run(self, trial: optuna.Trial, run_id: str) -> None:
        trial.set_user_attr(RUN, run_id)

    def origin(self, trial: optuna.Trial) -> int:
        """Return the number of the trial that ``trial`` repeats.

        If ``trial`` does not repeat a trial, return the number of ``trial`` itself.
        """
        return int(trial.user_attrs[ORIGIN])

    def set_error(self, trial: optuna.Trial, error: str) -> None:
        trial.set_user_attr(ERROR, error[:_ERROR_CHARACTERS])

    def report(self, trial: optuna.Trial, step: int, value: float, *, last: bool) -> None:
        """Report a value of a running trial to Optuna.

        :param step: number of the step, from 0
        :param value: value after this step, which Optuna compares with the values of other trials
        :param last: whether the step is the last step of the trial, after which the trial is not pruned
        :raises optuna.TrialPruned: the trial is worse than the median of the other trials
        """
        trial.report(value, step)
        if not last and trial.should_prune():
            raise optuna.TrialPruned

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters with the values of the search space. ``params`` contains the values that Optuna stores."""
        return {name: _value(self._search.space[name], found) for name, found in params.items()}

    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the best value; ``None`` if no trial is complete.

        If several trials have the best value, the first of these trials is returned.
        """
        found = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        sign = -1 if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
        return min(found, key=lambda trial: (sign * (trial.value or 0.0), trial.number), default=None)

    def counts(self) -> dict[str, int]:
        """Return the number of trials by state: ``complete``, ``pruned`` and ``failed``."""
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        trials = [trial for trial in self._trials() if _counts(trial)]
        return {name: sum(trial.state == state for trial in trials) for name, state in states.items()}

    def first_error(self) -> str:
        """Return the error message of the first failed trial; empty if no trial failed."""
        return next((str(trial.user_attrs[ERROR]) for trial in self._trials() if ERROR in trial.user_attrs), "")

    def importances(self) -> dict[str, float]:
        """Compute the importance of each parameter with PED-ANOVA.

        :return: importance of each parameter, by name, with the sum 1; empty if the importances cannot be computed
        """
        values = {trial.value for trial in self._trials() if trial.state == TrialState.COMPLETE}
        if len(values) < 2:
            return {}
        try:
            # Optuna warns that this evaluator is experimental.
            with no_warnings():
                return optuna.importance.get_param_importances(
                    self.study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
                )
        except (ValueError, RuntimeError):
            return {}

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _recover(self) -> None:
        """Repeat the trials that an earlier try of this task started but did not finish."""
        trials = self._trials()
        repeated = {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}
        for trial in trials:
            if trial.user_attrs.get(TASK) != self.task or trial.number in repeated:
                continue
            if trial.state == TrialState.RUNNING:
                try:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                except ValueError:
                    # Another worker has already ended the trial, because its heartbeats stopped.
                    continue
            elif trial.state != TrialState.FAIL or ERROR in trial.user_attrs:
                continue
            self._repeat(self.study, trial)

    def _repeat(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._lost(trial.user_attrs.get(RUN))
        RetryHeartbeatStaleTrialCallback(max_retry=_REPEATS)(study, trial)


def _counts(trial: FrozenTrial) -> bool:
    """Return whether a finished trial counts towards the number of trials.

    Complete, pruned and failed trials count. A trial whose worker crashed does not count.
    """
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
