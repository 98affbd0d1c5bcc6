"""Run one worker of a hyperparameter search. All workers of a search share an Optuna study."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import Task
from airflow_mlops.core.errors import EvaluationError, SpecError, TrainingError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.numbers import rounded
from airflow_mlops.data.results import earlier_results, task_folder
from airflow_mlops.data.selection import select_one
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import MAIN_METRIC, Metric, find_metric, is_custom, metrics_for
from airflow_mlops.metrics.forecasts import metrics_of
from airflow_mlops.metrics.judged import chosen
from airflow_mlops.models.trainers.objectives import own_metric
from airflow_mlops.models.trainers.spec import SearchTrainerSpec
from airflow_mlops.models.training_data import SAMPLE_ROWS, TRAIN, check_parts, read_part
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.runs import run_url
from airflow_mlops.registry.tags import run_tags
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.search.objective import Attempt, CrossValidation, Objective, Validation
from airflow_mlops.stages.search.record import Record
from airflow_mlops.stages.search.spec import SearchResult, SearchSpec

if TYPE_CHECKING:
    import optuna

    from airflow_mlops.stages.search.study import Study


def run(spec: SearchSpec, context: StepContext) -> SearchResult:
    """Run trials until the number of trials that the user set is finished or running, counted over all workers.

    All instances of a mapped task are workers of one search.

    :raises TrainingError: no model can be trained on the data, or all trials failed
    :raises SpecError: Optuna is not installed, the metric does not apply to the ML task, the trainer does not accept
        the parameters, or the workers cannot share the study
    :raises StoreError: the storage of the study cannot be used
    :raises RegistryError: MLflow cannot be used
    """
    return _search(spec, context, _key(spec, context, "shared"))


def run_in_one_task(spec: SearchSpec, context: StepContext) -> SearchResult:
    """Run a whole search in this task instance. Other instances of a mapped task run separate searches.

    The function raises the same errors as :func:`run`.
    """
    return _search(spec, context, _key(spec, context, context.provenance.map_index))


def _key(spec: SearchSpec, context: StepContext, owner: str | int) -> str:
    """Return the key of the folder of a search in the artifact store.

    All retries of a task use the same folder. If a user clears a finished task, the next run of the task uses a new
    folder. In a script, each search uses a new folder.

    :param owner: ``shared`` if all instances of a mapped task share the search, otherwise the map index of the task
    """
    if context.is_adhoc:
        return f"searches/adhoc/{fingerprint([context.for_call().key, owner])[:16]}"
    content = spec.model_dump(mode="json", exclude={"worker"})
    name = f"{earlier_results(context.store, context.key)}-{fingerprint([owner, content])[:16]}"
    return f"searches/{task_folder(context.provenance)}/{name}"


def _search(spec: SearchSpec, context: StepContext, key: str) -> SearchResult:
    try:
        from airflow_mlops.stages.search.study import Study
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise SpecError(
            "A search needs Optuna, which is not installed where the step runs. Install airflow-mlops[search] there."
        ) from None

    search, dataset = spec.search, select_one(context.store, spec.dataset, context.kept)
    streamed = search.trainer.streams
    train = read_part(dataset, TRAIN, SAMPLE_ROWS if streamed else None)
    check_parts(dataset, {TRAIN: train})
    metric = _metric(
        search.metric or _default(search, dataset.manifest.details, train.task), search.greater_is_better, train.task
    )
    objective: Objective = (
        Validation(dataset, train, metric, spec.seed)
        if streamed
        else CrossValidation(dataset, train, metric, search.folds, spec.seed)
    )
    client = connect(spec.mlflow, context.connection)
    record = Record.open(
        client,
        context.store,
        key,
        experiment=spec.mlflow.experiment or spec.model,
        name=f"search {search.label}",
        tags=run_tags(spec.model, spec.seed, dataset.manifest, context.provenance, spec.tags),
        metric=metric.name,
    )
    with record.failures():
        study = Study(spec, context, key, metric, lost=record.lose)
        worker = _Worker(spec, context, key, study, record, objective)
        if study.is_resumed and not study.is_taken():
            record.set_resumed()
        while not study.is_taken():
            study.run(worker.attempt, survives=(TrainingError, EvaluationError))
        best, finished, counts = study.best(), study.is_finished(), study.counts()
        params = study.values(best.params) if best else {}
        if finished:
            if best is None:
                raise TrainingError(
                    f"All {sum(counts.values())} trials failed. Error of the first failed trial: {study.first_error()}"
                )
            record.finish(float(best.value or 0.0), params, study.importances(), counts, study.runs())
    return SearchResult(
        study=study.name,
        run_id=record.run_id,
        run_url=run_url(client, record.run_id),
        metric=metric.name,
        greater_is_better=search.greater_is_better,
        value=best.value if best else None,
        params=params,
        trainer=search.trainer.with_values(params).model_dump(mode="json") if best else None,
        trials=counts,
        dataset=dataset.ref,
        summary=_summary(search.label, metric.name, best.value if best else None, params, counts, finished=finished),
    )


def _default(search: SearchTrainerSpec, details: Mapping[str, Any], task: Task) -> str:
    """Return the metric that a search optimises if the user names none.

    It is the metric by which the best model will be judged. If the search chooses between objectives with different
    metrics, it is the metric of the ML task.

    :param details: details of the manifest of the training set
    """
    ends = [{name: value} for name, parameter in search.space.items() for value in parameter.ends]
    learned = {own_metric(search.trainer), *(own_metric(search.trainer.with_values(values)) for values in ends)}
    only = learned.pop() if len(learned) == 1 else None
    measurable = [*metrics_of(details), *filter(None, [only])]
    return chosen(task, measurable, details, learned=only, known=True) or MAIN_METRIC[task]


def _metric(name: str, greater_is_better: bool | None, task: Task) -> Metric:
    metric = find_metric(name, greater_is_better)
    if task not in metric.tasks:
        raise SpecError(
            f"The metric {metric.name!r} does not apply to a {task} task. Set `metric` to one of "
            f"{', '.join(metrics_for(task))}."
        )
    if is_custom(metric.name):
        # Load the custom metric now, so that an invalid import path fails before the first trial.
        custom.load(metric.name)
    return metric


def _summary(
    name: str, metric: str, value: float | None, params: Mapping[str, Any], counts: Mapping[str, int], *, finished: bool
) -> str:
    tried = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "complete")
    if value is None:
        return f"Searched parameters of {name} ({tried} trials). Other workers are still running trials."
    chosen = ", ".join(
        f"{parameter} {rounded(found)}" if isinstance(found, float) else f"{parameter} {found}"
        for parameter, found in params.items()
    )
    rest = "" if finished else " Other workers are still running trials."
    return f"Searched parameters of {name} ({tried} trials). Best {metric}: {rounded(value)} with {chosen}.{rest}"


class _Worker:
    """A worker of a search, which runs trials and records each trial in the Optuna study and in MLflow.

    :param key: folder of the search in the artifact store
    :param objective: function that trains and measures a model
    """

    def __init__(
        self,
        spec: SearchSpec,
        context: StepContext,
        key: str,
        study: Study,
        record: Record,
        objective: Objective,
    ) -> None:
        self._spec, self._context, self._key = spec, context, key
        self._study, self._record, self._objective = study, record, objective

    def attempt(self, trial: optuna.Trial) -> float:
        """Run one trial, and return the value of the metric. Optuna calls this method."""
        values = self._study.choose(trial)
        run_id = self._record.begin(trial.number, values, self._study.run_of(trial))
        self._study.set_run(trial, run_id)
        checkpoint = f"{self._key}/trial-{self._study.origin(trial)}.pt"
        started, title = time.monotonic(), f"Trial {trial.number}"

        def report(step: int, value: float, metrics: dict[str, float], last: bool) -> None:
            self._record.log(run_id, step, metrics)
            self._study.report(trial, step, value, last=last)

        def end(state: str, value: float | None = None, error: str = "") -> None:
            self._record.end(run_id, state, time.monotonic() - started, value, error)
            self._context.store.delete(checkpoint)

        attempt = Attempt(checkpoint, report, lambda message: self._context.progress(f"{title}: {message}"))
        try:
            value = self._objective(self._spec.search.trainer.with_values(values), attempt)
        except self._study.Pruned:
            end("pruned")
            self._context.progress(f"{title} was pruned, because it is worse than the median of the other trials.")
            raise
        except (TrainingError, EvaluationError) as error:
            self._study.set_error(trial, str(error))
            end("failed", error=str(error))
            self._context.progress(f"{title} failed: {error}")
            raise
        except BaseException:
            # The trial was interrupted and did not fail, so it will be repeated.
            self._record.lose(run_id)
            raise
        end("complete", value)
        self._context.progress(f"{title}: {rounded(value, 5)} with {values}.")
        return value
