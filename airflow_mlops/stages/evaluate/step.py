"""Measure candidates and the champion on the same held-out data, and check the candidates against gates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from airflow_mlops.core.base import choices
from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets.by_id import Finder
from airflow_mlops.gates.base import Gate, MetricGate
from airflow_mlops.gates.baseline import BeatsABaseline
from airflow_mlops.gates.evidence import Evidence, HeldOut, SplitPart
from airflow_mlops.gates.rules import default_gates, ignores_champion, parse_gates, with_champion
from airflow_mlops.metrics import custom
from airflow_mlops.metrics.catalog import Metric, find_metric, is_custom, is_on_request, metrics_for
from airflow_mlops.metrics.columns import read_columns
from airflow_mlops.metrics.forecasts import metrics_of
from airflow_mlops.metrics.judged import NoCommonMetricError, common_metric
from airflow_mlops.models import contracts as contracts_of_versions
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.versions import champion, download, version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import live as logged
from airflow_mlops.stages.evaluate import record as evaluate_record
from airflow_mlops.stages.evaluate import shards
from airflow_mlops.stages.evaluate.candidates import (
    Candidate,
    check_contract,
    for_positive,
    held_out,
    load,
    split_part,
    with_weights,
)
from airflow_mlops.stages.evaluate.card import intervals
from airflow_mlops.stages.evaluate.common_rows import refuse_training_rows
from airflow_mlops.stages.evaluate.live import Live
from airflow_mlops.stages.evaluate.measurement import Compared, Measured, compare, importance
from airflow_mlops.stages.evaluate.spec import EvaluateResult, EvaluateSpec
from airflow_mlops.stages.evaluate.verdict import choose, decide, judge
from airflow_mlops.stages.reproduce.spec import ReproduceResult, ReproduceSpec
from airflow_mlops.stages.shards import for_newer_round

if TYPE_CHECKING:
    from pathlib import Path

    from mlflow import MlflowClient


def run(spec: EvaluateSpec, context: StepContext) -> EvaluateResult:
    """Measure the models, check the gates, and log the verdict to each candidate's MLflow run.

    With ``shards``, predict the rows of one shard. The task that predicts the last missing shard makes the verdict of a single
    pass. All other tasks return a result without a verdict. See :mod:`airflow_mlops.stages.evaluate.shards`.

    :raises SpecError: a gate or the metric is invalid; the candidates belong to different registered models; no dataset
        with a label can be chosen; the held-out rows of the candidates' training sets differ; or a candidate was
        trained on the compared rows
    :raises RegistryError: MLflow cannot be used, or a version does not exist
    :raises EvaluationError: the held-out data is empty or contains only one class, or predictions are not finite
    :raises MetricError: a custom metric fails
    :raises MetricColumnError: a column that a metric names is absent from the rows, or has invalid values
    :raises SchemaError: ML task, label or features of a candidate do not match the held-out data
    """
    context = context.for_call()
    shard = shards.join(spec, context) if spec.shards is not None else None
    # Check gates and metrics now, so that an invalid declaration fails before anything is downloaded.
    declared = _declared(spec)
    model = _one_model(spec)
    client = connect(spec.mlflow, context.connection)
    refs = [ref if ref.run_id else version(client, model, ref.version) for ref in _distinct(spec.candidates)]
    folders = {ref: download(client, ref) for ref in refs}
    live = _live(spec, refs, client, context, ignored=ignores_champion(declared or ()))
    part = live.data if live is not None else split_part(spec, folders, context, shard)
    candidates = _load(spec, folders, part, live, client, context)
    metric = find_metric(spec.metric or _default(candidates, logged=live is not None), spec.greater_is_better)
    gates = _all_gates(spec, declared, metric, part.task, context)
    scored = None
    if shard is not None:
        work = shards.Shards(shard, client, candidates, part, context, allow_pyfunc=spec.allow_pyfunc)
        piece = work.score()
        if not shard.is_newest:
            context.progress(
                "Another shard was cleared, so all shards look up the champion again. The rows of this shard are predicted again."
            )
            return run(for_newer_round(spec), context)
        context.processed(piece.rows)
        pieces = shard.pieces_to_commit()
        if pieces is None:
            return _unfinished(shard, piece, part)
        scored = work.complete(pieces)
        context.processed(piece.rows)
    own = list(dict.fromkeys([*own_metrics(gates), *metrics_of(part.dataset.manifest.details)]))
    data = _comparable(spec, candidates, live.data if live is not None else held_out(part), live, metric, own, context)
    compared = compare(
        client,
        model,
        candidates,
        data,
        context,
        own=own,
        allow_pyfunc=spec.allow_pyfunc,
        groups=spec.groups,
        live=live,
        scored=scored,
    )
    evaluation, best = _evaluation(spec, compared, gates, metric, own, folders, live, client, context)
    context.require_unfinished()
    _record(evaluation, live, client, context)
    verdict = evaluation.verdict
    held = f"{data.truth.size:,} {'held-out' if live is None else 'live'} rows of {verdict.dataset_name}"
    models = counted(len(compared.candidates), "candidate")
    if scored is None or shard is None:
        context.processed(data.truth.size)
    else:
        context.processed_in_shards(scored.usage_of_others(shard.shard), data.truth.size)
        scored.discard()
    return EvaluateResult(
        verdict=verdict,
        shard=spec.shard,
        run_id=best.run_id,
        reports=[f"runs:/{ref.run_id}/{evaluate_record.ARTIFACTS}" for ref in refs if ref.run_id],
        summary=f"Evaluated {models} on {held}. {verdict.reason}",
    )


def _declared(spec: EvaluateSpec) -> list[Gate] | None:
    """Parse the gates that the user declared, and import the custom metrics; ``None`` if no gates are declared.

    :raises SpecError: a gate or the metric is invalid
    """
    gates = parse_gates(spec.gates) if spec.gates is not None else None
    if spec.metric is not None and is_custom(spec.metric):
        custom.load(spec.metric)
    own_metrics(gates or ())
    return gates


def _evaluation(
    spec: EvaluateSpec,
    compared: Compared,
    gates: Sequence[Gate],
    metric: Metric,
    own: Sequence[str],
    folders: Mapping[ModelVersionRef, Path],
    live: Live | None,
    client: MlflowClient,
    context: StepContext,
) -> tuple[evaluate_record.Evaluation, ModelVersionRef]:
    """Check the gates, choose a candidate and decide, and measure what is recorded about each candidate.

    :param own: metrics that are computed only on request
    :param folders: the downloaded files of each candidate
    :return: what is recorded, and the chosen candidate, which may have failed gates
    """
    items = {item.candidate.ref: item for item in compared.candidates}
    judged = [judge(ref, gates, _evidence(item, compared, spec, context)) for ref, item in items.items()]
    rows = {ref: item.measurement.rows for ref, item in items.items()}
    choice = choose(judged, metric, rows, compared.resampling)
    # Importances are computed once and used several times, because predictions may be slow.
    importances = {
        ref: importance(item.candidate, compared.data, metric)
        if metric.name in item.measurement.metrics and (live is None or live.has_features(item.candidate.contract))
        else {}
        for ref, item in items.items()
    }
    contracts = {
        ref: evaluate_record.keep_contract(client, context.store, item, compared.data, importances[ref])
        if live is None
        else contracts_of_versions.digest(client, ref)
        for ref, item in items.items()
    }
    bounds = {ref: intervals(item.measurement, compared.resampling) for ref, item in items.items()}
    verdict = decide(
        choice.best.candidate.model,
        compared,
        judged,
        choice,
        contracts,
        {ref: file_hashes(folder) for ref, folder in folders.items()},
        bounds,
        metric,
        custom.source_hashes(own),
        ignored=ignores_champion(gates),
        live=live.rows if live is not None else None,
    )
    evaluation = evaluate_record.Evaluation(
        compared, gates, verdict, spec.card, importances, bounds, Finder(context.store)
    )
    return evaluation, choice.best.candidate


def _record(
    evaluation: evaluate_record.Evaluation, live: Live | None, client: MlflowClient, context: StepContext
) -> None:
    """Log the verdict, the metrics and the files to the MLflow run of each candidate."""
    compared = evaluation.compared
    for item in compared.candidates:
        # Tags and files of the champion record why it was promoted, so a later evaluation does not overwrite them.
        if item.candidate.ref != compared.champion:
            if live is None:
                evaluate_record.tag_compared(client, item, compared)
            evaluate_record.log(client, context, item, evaluation)


def _unfinished(shard: shards.Round, piece: shards.Piece, part: SplitPart) -> EvaluateResult:
    """Return the result of a shard that does not make the verdict."""
    return EvaluateResult(
        verdict=None,
        run_id="",
        reports=[],
        shard=shard.shard,
        summary=f"Predicted {counted(piece.rows, 'row')} of {part.dataset.manifest.name} with "
        f"{counted(len(piece.models), 'model')}, shard {shard.shard} of {shard.shards}; the last shard makes the verdict.",
    )


def _load(
    spec: EvaluateSpec,
    folders: Mapping[ModelVersionRef, Path],
    data: SplitPart,
    live: Live | None,
    client: MlflowClient,
    context: StepContext,
) -> list[Candidate]:
    """Load the candidates, set their positive class, and check that they suit the rows.

    :param folders: the downloaded files of each candidate
    """
    candidates = [
        load(folder, ref, data, allow_pyfunc=spec.allow_pyfunc)
        if live is None
        else logged.load(client, context.store, folder, ref, spec.allow_pyfunc)
        for ref, folder in folders.items()
    ]
    for candidate in candidates:
        check_contract(candidate, data, features=live is None)
    for candidate in candidates:
        for_positive(candidate, candidates[0].contract.positive if data.positive is None else data.positive)
    return candidates


def _all_gates(
    spec: EvaluateSpec, declared: Sequence[Gate] | None, metric: Metric, task: Task, context: StepContext
) -> list[Gate]:
    """Return the gates that the candidates must pass: the declared or the default ones, and those that are always added.

    :param declared: the gates that the user declared; ``None`` for the default gates
    :raises SpecError: the metric or a gate does not suit the ML task
    """
    wanted = declared or default_gates(task, metric.name, spec.greater_is_better)
    gates = with_champion(wanted, metric.name, spec.greater_is_better)
    if len(gates) > len(wanted):
        context.progress(
            f"No gate compares with the champion, so this gate is added: {gates[-1].name}. Declare the gate "
            '{"champion": "ignore"} if a worse model may replace the champion.'
        )
    _check_gates(gates, metric, task)
    return [*gates, BeatsABaseline(metric=metric.name, greater_is_better=spec.greater_is_better)]


def _comparable(
    spec: EvaluateSpec,
    candidates: Sequence[Candidate],
    data: HeldOut,
    live: Live | None,
    metric: Metric,
    own: Sequence[str],
    context: StepContext,
) -> HeldOut:
    """Return the rows with the weights and the columns that the metrics need. Check that no candidate has seen the rows.

    :param own: metrics that are computed only on request
    :raises SpecError: a candidate was trained on the rows
    """
    if spec.dataset is not None:
        for candidate in candidates:
            _warn_of_other_dataset(candidate, data.dataset.manifest.id, context)
    data = with_weights(data, candidates, live=live is not None)
    data = replace(data, columns=read_columns(data.dataset, data.part, [metric.name, *own]))
    if data.weight is not None:
        for path in filter(is_custom, own):
            custom.load(path).require_weights()
    _refuse_refits(candidates, data)
    trained = {candidate.ref: candidate.contract for candidate in candidates}
    if spec.dataset is not None:
        refuse_training_rows(trained, data.dataset, data.part, context.store)
    if live is not None:
        logged.refuse_training_rows(trained, data, context.store)
    return data


def _default(candidates: Sequence[Candidate], *, logged: bool) -> str:
    """Return the metric that ranks the candidates if the user names none.

    :param logged: whether the candidates are compared by logged predictions
    :raises SpecError: the candidates have no common default metric
    """
    try:
        return common_metric([candidate.contract for candidate in candidates], logged=logged)
    except NoCommonMetricError as error:
        raise SpecError(
            "The candidates predict different quantiles, a ranking or the mean, so they have no common default metric. Set `metric`, "
            f"for example {{'metric': 'pinball', 'alpha': 0.9}}; their own metrics are {', '.join(error.metrics)}."
        ) from None


def _live(
    spec: EvaluateSpec, refs: Sequence[ModelVersionRef], client: MlflowClient, context: StepContext, *, ignored: bool
) -> Live | None:
    """Read the live evidence on the candidates and, unless the gates ignore it, on the champion."""
    if spec.evidence is None:
        return None
    present = None if ignored else champion(client, refs[0].model)
    others = [present] if present is not None and present.version not in {ref.version for ref in refs} else []
    found = logged.read(spec.evidence, [*refs, *others], context)
    context.progress(found.rows.sentence)
    return found


def own_metrics(gates: Iterable[Gate]) -> list[str]:
    """Return the metrics of the gates that are computed only on request, such as custom metrics and expected costs.

    :raises SpecError: a custom metric cannot be imported, or does not take two arrays
    """
    names = dict.fromkeys(gate.metric for gate in gates if isinstance(gate, MetricGate))
    for name in filter(is_custom, names):
        custom.load(name)
    return [*filter(is_on_request, names)]


def _one_model(spec: EvaluateSpec) -> str:
    names = {ref.model for ref in spec.candidates} | ({spec.model} if spec.model else set())
    if len(names) > 1:
        raise SpecError(
            "All candidates, and `model` if it is set, must name the same registered model, but they name "
            f"{', '.join(sorted(names))}."
        )
    return names.pop()


def _distinct(refs: Sequence[ModelVersionRef]) -> list[ModelVersionRef]:
    """Return each version once, in the order in which the user lists them."""
    return list({ref.version: ref for ref in refs}.values())


def _check_gates(gates: Sequence[Gate], metric: Metric, task: Task) -> None:
    if task not in metric.tasks:
        raise SpecError(f"{metric.name!r} is not a metric for {task} tasks: {choices(metric.name, metrics_for(task))}.")
    for gate in gates:
        gate.suits(task)


def _warn_of_other_dataset(candidate: Candidate, dataset_id: str, context: StepContext) -> None:
    trained_on = candidate.contract.dataset_id
    if trained_on != dataset_id:
        context.progress(
            f"{candidate.ref} was trained on "
            f"{f'another dataset ({trained_on[:12]})' if trained_on else 'an unknown dataset'}. If that "
            "dataset contains held-out rows, the metrics are too optimistic."
        )


def _refuse_refits(candidates: Sequence[Candidate], data: HeldOut) -> None:
    for candidate in candidates:
        contract = candidate.contract
        if contract.refit_of is not None and contract.dataset_id == data.dataset.manifest.id:
            raise SpecError(
                f"{candidate.ref} is a refit on all rows of dataset {data.dataset.manifest.name!r}, including the held-out rows, so it "
                f"cannot be evaluated on them. Evaluate the version before the refit (v{contract.refit_of} in the registry in which it "
                "was trained), or set another `dataset`."
            )


def _evidence(item: Measured, compared: Compared, spec: EvaluateSpec, context: StepContext) -> Evidence:
    """Collect the evidence that the gates need to check a candidate."""
    return Evidence(
        task=compared.data.task,
        truth=compared.data.truth,
        candidate=item.measurement,
        baseline=compared.baseline,
        champion=compared.measured_champion,
        champion_problem=compared.problem,
        tree=compared.tree,
        statistical=compared.statistical,
        model=item.candidate.model,
        data=compared.data,
        candidates=len(compared.candidates),
        resampling=compared.resampling,
        store=context.store,
        reproduce=partial(_reproduce, item.candidate.ref, spec, context),
    )


def _reproduce(ref: ModelVersionRef, spec: EvaluateSpec, context: StepContext) -> ReproduceResult:
    from airflow_mlops.stages.reproduce import step as reproduce

    # A separate key gives each candidate a separate checkpoint.
    own = replace(context, key=f"{context.key.removesuffix('.json')}-v{ref.version}.json")
    asked = ReproduceSpec(model=ref.model, version=ref.version, allow_code=spec.allow_code, mlflow=spec.mlflow)
    return reproduce.run(asked, own)
