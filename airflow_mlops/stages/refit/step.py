"""Fit the winner of an evaluation again on all rows of its training set, and compare it with the judged version."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import ModelFormatError, RegistryError, SpecError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.temporary import temporary_folder
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics.catalog import Metric, find_metric, is_custom
from airflow_mlops.metrics.columns import read_columns
from airflow_mlops.metrics.judged import default_metric
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import predicted
from airflow_mlops.models.contract_file import PROFILE_FILE
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.parity import standard_deviation
from airflow_mlops.models.rules.calibration import CalibrationRule
from airflow_mlops.models.rules.interval import IntervalRule
from airflow_mlops.models.rules.threshold import ThresholdRule
from airflow_mlops.models.trainers.base import TrainingData
from airflow_mlops.models.training_data import SAMPLE_ROWS, TEST, TRAIN, read_part
from airflow_mlops.registry import run_files
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.integrity import file_hashes
from airflow_mlops.registry.names import IN_SAMPLE, JUDGED_RUN_TAG, REFIT_OF_TAG, REFIT_TAG
from airflow_mlops.registry.records.verdict import GateResult, Refit, Verdict
from airflow_mlops.registry.runs import run_for, run_url
from airflow_mlops.registry.tags import run_tags
from airflow_mlops.registry.versions import IDENTITY, download, identical, of_run, register
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate import card
from airflow_mlops.stages.evaluate.record import ARTIFACTS
from airflow_mlops.stages.refit import checks
from airflow_mlops.stages.refit.runs import CHECKS_FILE, copied
from airflow_mlops.stages.refit.spec import RefitResult, RefitSpec
from airflow_mlops.stages.train import record, warm_start
from airflow_mlops.stages.train.candidate import Fitted, Phase, fit_candidate, load_all
from airflow_mlops.stages.train.package import write_package
from airflow_mlops.stages.train.recorded import training_spec
from airflow_mlops.stages.train.runs import drop_checkpoint, logged_run
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class _Judged:
    """The version that passed the gates, and how it was trained.

    :param importances: each feature's share of the permutation importance, which was measured on held-out rows
    """

    ref: ModelVersionRef
    spec: TrainSpec
    model: OnnxModel
    experiment: str
    importances: dict[str, float]


def run(spec: RefitSpec, context: StepContext) -> RefitResult:
    """Fit the winner again on all rows of its training set, including the held-out rows, and register the new version.

    The new version replaces the winner in the verdict if it passes the checks in
    :mod:`airflow_mlops.stages.refit.checks`. Otherwise it is not registered, and the judged version stays the winner.
    Nothing is fitted if the verdict has no winner.

    :raises RegistryError: MLflow cannot be used, or TrainOperator did not train the winner
    :raises SpecError: the winner was already fitted to all rows, its MLflow run names user code and ``allow_code`` is
        not set, or the metric of the verdict is unknown or does not apply to the ML task
    :raises DatasetNotFoundError: the training set of the winner is not in the artifact store
    :raises TrainingError: the training fails
    :raises ModelFormatError: the model cannot be exported to ONNX, or cannot be stored
    """
    context = context.for_call()
    verdict = spec.verdict
    if verdict.winner is None:
        return RefitResult(verdict=verdict, summary=f"Nothing was fitted again: {verdict.reason}")
    client = connect(spec.mlflow, context.connection)
    judged = _open(client, verdict.winner, allow_code=spec.allow_code)
    metric = _metric(verdict, judged)
    dataset, rows, test = load_all(judged.spec, context.store)
    tags = {
        **run_tags(verdict.model, judged.spec.seed, dataset.manifest, context.provenance, judged.spec.tags),
        REFIT_OF_TAG: str(judged.ref.version),
        JUDGED_RUN_TAG: judged.ref.run_id,
    }
    context.processed(len(rows.labels))
    limit, among = getattr(judged.spec.trainer, "max_rows", None), f"all {len(rows.labels):,} rows"
    drawn = f"a sample of {limit:,} of " if limit is not None and limit < len(rows.labels) else ""
    context.progress(f"Fitting {judged.ref} again on {drawn}{among} of {dataset.manifest.name}.")
    name = f"{judged.spec.trainer.label} (refit)"
    # Otherwise, MLflow would show a finished run as running again.
    context.require_unfinished()
    with run_for(client, context.store, judged.experiment, context.key, name, tags) as run_id:
        version = of_run(client, verdict.model, run_id)
        if version is None:
            refit = _fit(client, context, run_id, judged, dataset, rows, test, metric)
        else:
            context.progress(f"An earlier try of this task has already registered {version}.")
            refit = _recorded(client, run_id).model_copy(update={"version": version})
        if refit.version is not None:
            refit = refit.model_copy(update={"files": file_hashes(download(client, refit.version))})
        verdict = _with_refit(verdict, refit)
        _link(client, run_id, judged, refit)
        _write_card(client, context, judged, refit, verdict)
    return RefitResult(
        verdict=verdict, run_id=run_id, run_url=run_url(client, run_id), summary=_summary(refit, verdict)
    )


def _metric(verdict: Verdict, judged: _Judged) -> Metric:
    task = judged.model.contract.task
    if is_custom(verdict.metric):
        # The verdict does not record whether larger values of a custom metric are better, so the default is used.
        return find_metric(default_metric(judged.model.contract))
    # The verdict of a canary has the mean squared error, which ranks models in the same order as its root.
    name = "rmse" if verdict.metric == "mse" else verdict.metric
    try:
        metric = find_metric(name)
    except ValueError as error:
        raise SpecError(f"The verdict on {judged.ref} cannot be used: {error}.") from None
    if task not in metric.tasks:
        raise SpecError(f"The verdict on {judged.ref} has the metric {name!r}, which does not apply to a {task} task.")
    return metric


def _open(client: MlflowClient, ref: ModelVersionRef, *, allow_code: bool) -> _Judged:
    spec = training_spec(client, ref, "fitted again", allow_code=allow_code)
    folder = download(client, ref)
    model = OnnxModel.load(folder)
    if model.contract.refit_of is not None:
        raise SpecError(
            f"{ref} was already fitted to all rows of its training set, so it cannot be fitted again. Remove this task."
        )
    experiment, tags = copied(client, ref)
    try:
        importances = json.loads((folder / PROFILE_FILE).read_bytes()).get("importance") or {}
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"The profile of {ref} cannot be read ({error}). Train the model again.") from None
    fields: dict[str, Any] = {"tags": tags}
    if spec.threshold is not None:
        # No rows are left for a threshold, a calibration or the margin of intervals, so those of the judged version are
        # kept.
        fields["threshold"] = ThresholdRule(value=model.contract.threshold)
    if (calibration := model.contract.calibration) is not None:
        fields["calibration"] = CalibrationRule(method=calibration.method, maps=calibration.maps)
    if (interval := model.contract.interval) is not None:
        fields["interval"] = IntervalRule(coverage=interval.coverage, margin=interval.margin)
    return _Judged(ref, spec.model_copy(update=fields), model, experiment, importances)


def _fit(
    client: MlflowClient,
    context: StepContext,
    run_id: str,
    judged: _Judged,
    dataset: Dataset,
    rows: TrainingData,
    test: TrainingData,
    metric: Metric,
) -> Refit:
    """Fit and check the new version, and register it if it passes the checks.

    If an identical version exists, that version is used, and no new version is registered.
    """
    training = replace(logged_run(context, dataset, client, run_id), part=None)
    training = warm_start.started(training, judged.spec, client, context)
    fitted = fit_candidate(judged.spec, context, dataset, rows, test, training)
    before = judged.model.predict(test.table)
    found = _check(judged, fitted, before, dataset, test, metric)
    # Metrics on rows to which the model was fitted say nothing about other rows, so they have separate names. The
    # contract and the profile keep the metrics and scores of the judged version.
    contract = fitted.contract.model_copy(
        update={
            "metrics": judged.model.contract.metrics,
            "judged_by": judged.model.contract.judged_by,
            "refit_of": judged.ref.version,
            "threshold_choice": judged.model.contract.threshold_choice,
            "calibration": judged.model.contract.calibration,
            "interval": judged.model.contract.interval,
        }
    )
    stored = replace(
        fitted,
        contract=contract,
        predictions=before,
        metrics={f"{IN_SAMPLE}{name}": value for name, value in fitted.metrics.items()},
    )
    failed = [check.explanation for check in found if not check.passed]
    sample = contract.training_sample
    refit = Refit(
        judged=judged.ref,
        version=None,
        rows=len(fitted.train.labels),
        sampled_from=None if sample is None else sample.of,
        checks=found,
        passed=not failed,
        reason="",
    )
    reason = (
        f"It was fitted again on {refit.fitted_to}."
        if not failed
        else f"The refit on {refit.fitted_to} failed its checks: {' '.join(failed)}"
    )
    refit = refit.model_copy(update={"reason": reason})
    context.require_unfinished()
    with registry_errors(f"The refit of {judged.ref} cannot be logged to MLflow"):
        record.log_run(client, run_id, judged.spec, dataset, stored, fitted.train, None)
        client.log_dict(run_id, refit.model_dump(mode="json"), CHECKS_FILE)
    if not refit.passed:
        drop_checkpoint(context)
        return refit
    identity = record.identity(judged.spec, stored)
    version = identical(client, judged.spec.model, identity)
    if version is None:
        version = _register(client, context, run_id, judged, stored, dataset, fitted.train, test, identity)
    else:
        context.progress(f"The version is identical to {version}, so no new version is registered.")
        if version.run_id != run_id:
            with registry_errors(f"The refit of {judged.ref} cannot be logged to MLflow"):
                client.set_tag(run_id, "mlops.identical_to", str(version.version))
    drop_checkpoint(context)
    return refit.model_copy(update={"version": version})


def _register(
    client: MlflowClient,
    context: StepContext,
    run_id: str,
    judged: _Judged,
    stored: Fitted,
    dataset: Dataset,
    rows: TrainingData,
    test: TrainingData,
    identity: str,
) -> ModelVersionRef:
    tags = {
        "mlops.dataset": dataset.manifest.id,
        "mlops.key": context.key,
        "mlops.trainer": stored.model.name,
        "mlops.status": "candidate",
        IDENTITY: identity,
        REFIT_OF_TAG: str(judged.ref.version),
        JUDGED_RUN_TAG: judged.ref.run_id,
    }
    with temporary_folder("model") as temporary:
        folder = temporary / "model"
        with Phase(context, "Packaged"):
            description = write_package(folder, stored, dataset, rows, test, part=None, importances=judged.importances)
        try:
            with Phase(context, "Logged"), registry_errors(f"The refit of {judged.ref} cannot be logged to MLflow"):
                record.log_explanation(client, run_id, stored.model, rows)
                model_id = record.log_model(client, run_id, judged.spec, description, folder, stored.metrics)
            return register(client, judged.spec.model, run_id, model_id, tags)
        except RegistryError:
            # In the meantime, another try of this task may have registered its model and deleted the model of this try.
            other = of_run(client, judged.spec.model, run_id)
            if other is None:
                raise
            return other


def _check(
    judged: _Judged, fitted: Fitted, before: Predictions, dataset: Dataset, test: TrainingData, metric: Metric
) -> list[GateResult]:
    """Compare the new version with the judged version. If their signatures differ, nothing else is compared."""
    contract: ModelContract = judged.model.contract
    signature = checks.same_signature(contract, fitted.contract)
    if not signature.passed:
        return [signature]
    train = read_part(dataset, TRAIN, SAMPLE_ROWS)
    chosen = np.sort(np.random.default_rng(checks.SEED).permutation(train.table.num_rows)[: checks.ROWS])
    sample = train.table.take(pa.array(chosen))
    deviation = standard_deviation(train.labels) if contract.task == "regression" else None
    old_predictions = judged.model.predict(sample)
    ranks = getattr(judged.spec.trainer, "group", None) is not None
    if ranks:
        # The scores of a ranking are not in the unit of the label.
        deviation = standard_deviation(old_predictions.score)
    new = OnnxModel(fitted.exported, fitted.contract)
    columns = read_columns(dataset, TEST, [metric.name])
    return [
        signature,
        checks.stable_predictions(old_predictions, new.predict(sample), deviation, "scores" if ranks else "label"),
        checks.not_worse(
            metric,
            predicted(test.labels, before, contract, test.metric_weights, columns),
            predicted(test.labels, fitted.predictions, fitted.contract, test.metric_weights, columns),
        ),
    ]


def _recorded(client: MlflowClient, run_id: str) -> Refit:
    with registry_errors(f"The refit in run {run_id} cannot be read"):
        return Refit.model_validate_json(run_files.read(client, run_id, CHECKS_FILE))


def _with_refit(verdict: Verdict, refit: Refit) -> Verdict:
    reason = f"{verdict.reason} {refit.reason}"
    if refit.version is None:
        return verdict.model_copy(
            update={"refit": refit, "reason": f"{reason} v{refit.judged.version} stays the winner."}
        )
    reason = f"{verdict.reason} It was fitted again on {refit.fitted_to} as v{refit.version.version}."
    return verdict.model_copy(update={"refit": refit, "winner": refit.version, "reason": reason})


def _summary(refit: Refit, verdict: Verdict) -> str:
    if refit.version is None:
        return f"{refit.reason} {refit.judged} stays the winner."
    stable = next(check.explanation for check in refit.checks if check.gate == "stable predictions")
    return f"Fitted {refit.judged} again on {refit.fitted_to} as v{refit.version.version}. {stable}"


def _link(client: MlflowClient, run_id: str, judged: _Judged, refit: Refit) -> None:
    """Tag the run of the new version with the result of the checks.

    If the new version was registered, tag the judged version and its run with the number of the new version.
    """
    with registry_errors(f"The refit of {judged.ref} cannot be tagged"):
        client.set_tag(run_id, "mlops.verdict", "won" if refit.passed else "failed")
        if refit.version is None:
            return
        number = str(refit.version.version)
        client.set_tag(judged.ref.run_id, REFIT_TAG, number)
        client.set_model_version_tag(judged.ref.model, str(judged.ref.version), REFIT_TAG, number)


def _write_card(client: MlflowClient, context: StepContext, judged: _Judged, refit: Refit, verdict: Verdict) -> None:
    """Log verdict, plots and model card of the judged version to the run of the new version.

    The card gets a note about the refit. Nothing is logged if no new version was registered, or if the run of the
    judged version has no card.
    """
    if refit.version is None:
        return
    ref = refit.version
    with registry_errors(f"The evaluation of {ref} cannot be logged"), temporary_folder("model") as temporary:
        if ARTIFACTS not in run_files.paths(client, judged.ref.run_id):
            context.progress(f"{ref} has no model card, because the MLflow run of {judged.ref} has none.")
            return
        folder = run_files.download(client, judged.ref.run_id, ARTIFACTS, temporary)
        (folder / "verdict.json").write_text(verdict.model_dump_json(indent=1))
        about = card.for_refit(folder, ref, refit)
        client.log_artifacts(ref.run_id, str(folder), ARTIFACTS)
        client.set_tag(ref.run_id, "mlops.evaluated_on", verdict.dataset_id)
        if not client.get_model_version(ref.model, str(ref.version)).description:
            client.update_model_version(ref.model, str(ref.version), textwrap.shorten(about, 5_000, placeholder=" …"))
