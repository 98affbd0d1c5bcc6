"""Predict the rows of a dataset with the champion or another version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.data.predictions.log import require_unserved
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.data.selection import select
from airflow_mlops.models import attributions, contracts, sent_models
from airflow_mlops.models.champion import download_champion, load_champion, load_explained_champion
from airflow_mlops.models.contract_file import has_contract
from airflow_mlops.models.sent_models import SentModel
from airflow_mlops.overview import index
from airflow_mlops.registry import versions as models
from airflow_mlops.registry.client import connect
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import on_executors, shards
from airflow_mlops.stages.score import table as writing
from airflow_mlops.stages.score.scoring import Scoring, score
from airflow_mlops.stages.score.spec import ScoreResult, ScoreSpec
from airflow_mlops.stages.score.windows import window_of_predictions
from airflow_mlops.stages.shards import for_newer_round

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.models.attributions import Explainer
    from airflow_mlops.models.scorer import Scorer

__all__ = ["run", "score"]


def run(spec: ScoreSpec, context: StepContext) -> ScoreResult:
    """Predict the rows of the dataset with the champion or the given version, and write the predictions as a dataset.

    With ``shards``, predict the rows of one shard. The task that scores the last missing shard writes the dataset, the
    index and the table. All other tasks return a result without a dataset. See
    :mod:`airflow_mlops.stages.shards`.

    If there are executors and ``shards`` is not set, the executors predict the rows. This process then writes the
    dataset, the index and the table.

    With ``write_to``, the predictions are read back from the committed dataset and written into the table. If the task
    ends after the dataset is committed and before the table is committed, it has no result yet. Its retry scores again
    and writes the table.

    :raises RegistryError: the model has no champion or no version with the alias, and ``on_missing`` is ``fail``; or
        the version does not exist
    :raises ModelCorruptError: a file of the version was added, removed or changed after its promotion
    :raises ModelFormatError: the version cannot be loaded; or loading runs code that is stored in the model version,
        and ``allow_pyfunc`` is not set; or ``explain`` is set, and there are no exact attributions for the version
    :raises SchemaError: a feature is absent from the dataset, or a column has the name of a column that scoring adds
    :raises TableError: the table of ``write_to`` cannot hold the predictions, or rejects them. The dataset
        of predictions exists
    :raises DatasetCorruptError: the predictions of another shard were deleted or changed before they became a dataset
    :raises SpecError: ``window`` differs from the window of the dataset; or servers have logged predictions of the window
        in the same datasets
    """
    shard = shards.join(spec, context) if spec.shards is not None else None
    datasets = select(context.store, spec.dataset, kept=shard.kept if shard else context.kept)
    window = window_of_predictions(spec, datasets)
    parts = None
    if shard is None and context.executors is not None:
        context = context.for_call()
        parts = on_executors.parts(spec, datasets, context)
    if window is not None:
        require_unserved(context.store, spec.predictions, window)
    table = _table(spec, window, datasets[0], context)
    client = connect(spec.mlflow, context.connection)
    one_version = shard or parts
    resolve = partial(version_of, spec, client)
    version = shards.version(one_version, resolve) if one_version else resolve()
    if version is None:
        return ScoreResult(dataset=None, summary=f"No rows were scored. {_lacks(spec)}.")
    privacy = Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, context.connection)
    scoring = Scoring(datasets, version, spec.predictions, spec.part, window, context, privacy, spec.shadow)
    if parts is not None:
        done = _by_executors(scoring, parts, spec, client)
    elif shard is None:
        done = _all_rows(scoring, *_load(spec, client, context, version))
    else:
        piece = scoring.one_shard(shard, partial(_load, spec, client, context, version))
        if not shard.is_newest:
            context.progress(
                "Another shard was cleared, so all shards choose the model version again. This shard is scored again."
            )
            return run(for_newer_round(spec), context)
        which = f", shard {shard.shard} of {shard.shards},"
        done = _Done(scoring.dataset_of_shards(shard), piece.rows, piece.engine, piece.seconds, which)
    context.processed(done.rows)
    return _finished(spec, context, scoring, done, table)


class _Done(NamedTuple):
    """Scored rows.

    :param manifest: manifest of the dataset of predictions; ``None`` if another shard writes the dataset
    :param rows: number of rows that this task scored
    :param engine: library that ran the model
    :param seconds: time to score the rows, in seconds
    :param shard: the shard, as a part of a sentence; empty if the task scores all rows
    """

    manifest: Manifest | None
    rows: int
    engine: str
    seconds: float
    shard: str = ""


def _table(
    spec: ScoreSpec, window: Window | None, dataset: Dataset, context: StepContext
) -> writing.Replaceable | None:
    """Open the table of ``write_to``, and check that predictions can be found again in it."""
    if spec.write_to is None:
        return None
    kept = [key for key in dataset.manifest.details.get("keys") or [] if key not in spec.drop_columns]
    writing.check_rows(window, kept, dataset.manifest.name)
    return writing.open_target(spec.write_to, context.connection)


def _all_rows(scoring: Scoring, model: Scorer, explainer: Explainer | None) -> _Done:
    started = time.perf_counter()
    manifest = scoring.all_rows(model, explainer)
    return _Done(manifest, manifest.rows, model.engine, time.perf_counter() - started)


def _by_executors(scoring: Scoring, parts: shards.Round, spec: ScoreSpec, client: MlflowClient) -> _Done:
    started = time.perf_counter()
    send = partial(_send, spec, client, scoring.context, scoring.version)
    manifest, engine = on_executors.score(scoring, spec, parts, send)
    return _Done(manifest, manifest.rows, engine, time.perf_counter() - started)


def _finished(
    spec: ScoreSpec, context: StepContext, scoring: Scoring, done: _Done, table: writing.Replaceable | None
) -> ScoreResult:
    """Update the index, write the predictions into the table, and return the result."""
    manifest = done.manifest
    when = f" of {scoring.window.label}" if scoring.window else ""
    summary = f"Scored {counted(done.rows, 'row')}{when}{done.shard} with {scoring.version} in {done.seconds:.1f} s on {done.engine}"
    found = ScoreResult(
        dataset=manifest.ref if manifest else None,
        scored_by=scoring.version,
        engine=done.engine,
        rows_per_second=round(done.rows / done.seconds, 1),
        summary=f"{summary}.",
    )
    if manifest is None:
        return found.model_copy(update={"summary": f"{summary}; the last shard writes the dataset."})
    if done.shard:
        found = found.model_copy(
            update={"summary": f"{summary}. Wrote the {counted(manifest.rows, 'row')} of all shards."}
        )
    if not spec.shadow:
        index.update(context.store, spec.model, "scoring", manifest.name)
    if table is None or spec.write_to is None:
        return found
    context.require_unfinished()
    written, where = writing.written(spec.write_to, writing.write(table, Dataset(context.store, manifest)))
    into = f"Wrote {counted(written.rows, 'row')} to {where}."
    return found.model_copy(update={"summary": f"{found.summary} {into}", "written_to": written})


@contextmanager
def _send(spec: ScoreSpec, client: MlflowClient, context: StepContext, version: ModelVersionRef) -> Iterator[SentModel]:
    """Check the files of the version, and pass them to executors."""
    folder = download_champion(client, context.store, version, context.progress, named=_is_named(spec))
    contract = None
    if not has_contract(folder):
        if spec.explain:
            raise attributions.refusal(str(version))
        contract = contracts.read(client, context.store, version).contract
    with sent_models.sent(
        context.store,
        folder,
        str(version),
        explain=spec.explain,
        contract=contract,
        allow_pyfunc=spec.allow_pyfunc,
    ) as model:
        yield model


def _is_named(spec: ScoreSpec) -> bool:
    """Return whether a person named the version, so that it need not be the champion."""
    return spec.version is not None or spec.alias not in (None, models.CHAMPION)


def _load(
    spec: ScoreSpec, client: MlflowClient, context: StepContext, version: ModelVersionRef
) -> tuple[Scorer, Explainer | None]:
    named = _is_named(spec)
    if spec.explain:
        return load_explained_champion(client, context.store, version, context.progress, named=named)
    scorer = load_champion(
        client, context.store, version, context.progress, allow_pyfunc=spec.allow_pyfunc, named=named
    )
    return scorer, None


def version_of(spec: ScoreSpec, client: MlflowClient) -> ModelVersionRef | None:
    """Return the version to score with at this moment.

    :return: the version; ``None`` if no version has the alias and ``on_missing`` is ``skip``
    :raises RegistryError: no version has the number; or no version has the alias, and ``on_missing`` is ``fail``
    """
    if spec.version is not None:
        return models.version(client, spec.model, spec.version)
    version = models.by_alias(client, spec.model, spec.alias or models.CHAMPION)
    if version is None and spec.on_missing == "fail":
        what = "Promote a version" if spec.alias is None else "Set the alias in MLflow"
        raise RegistryError(f"{_lacks(spec)}. {what}, or set on_missing='skip' to skip the task until then.")
    return version


def _lacks(spec: ScoreSpec) -> str:
    return f"Model {spec.model!r} has no {spec.alias or models.CHAMPION} yet"
