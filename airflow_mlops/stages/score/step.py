"""Predict the rows of a dataset with the champion or another version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets import Dataset, Manifest
from airflow_mlops.data.predictions.log import require_unserved
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.data.selection import select, window_of
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
    :raises SpecError: servers have logged predictions of the window in the same datasets
    """
    shard = shards.join(spec, context) if spec.shards is not None else None
    datasets = select(context.store, spec.dataset, kept=shard.kept if shard else context.kept)
    parts = None
    if shard is None and context.executors is not None:
        context = context.for_call()
        parts = on_executors.parts(spec, datasets, context)
    window = spec.window or window_of(datasets)
    if window is not None:
        require_unserved(context.store, spec.predictions, window)
    table = None
    if spec.write_to is not None:
        details = datasets[0].manifest.details
        kept = [key for key in details.get("keys") or [] if key not in spec.drop_columns]
        writing.check_rows(window, kept, datasets[0].manifest.name)
        table = writing.open_target(spec.write_to, context.connection)
    client = connect(spec.mlflow, context.connection)
    one_version = shard or parts
    resolve = partial(version_of, spec, client)
    version = shards.version(one_version, resolve) if one_version else resolve()
    if version is None:
        return ScoreResult(dataset=None, summary=f"No rows were scored. {_lacks(spec)}.")
    privacy = Privacy.of(spec.hash_columns, spec.drop_columns, spec.hash_conn_id, context.connection)
    scoring = Scoring(datasets, version, spec.predictions, spec.part, window, context, privacy, spec.shadow)
    load = partial(_load, spec, client, context, version)
    manifest: Manifest | None
    if parts is not None:
        started = time.perf_counter()
        manifest, engine = on_executors.score(scoring, spec, parts, partial(_send, spec, client, context, version))
        rows, seconds, which = manifest.rows, time.perf_counter() - started, ""
    elif shard is None:
        model, explainer = load()
        started = time.perf_counter()
        manifest = scoring.all_rows(model, explainer)
        rows, engine, seconds, which = manifest.rows, model.engine, time.perf_counter() - started, ""
    else:
        piece = scoring.one_shard(shard, load)
        if not shard.is_newest:
            context.progress(
                "Another shard was cleared, so all shards choose the model version again. This shard is scored again."
            )
            return run(for_newer_round(spec), context)
        manifest = scoring.dataset_of_shards(shard)
        rows, engine, seconds = piece.rows, piece.engine, piece.seconds
        which = f", shard {shard.shard} of {shard.shards},"
    context.processed(rows)
    when = f" of {window.label}" if window else ""
    summary = f"Scored {counted(rows, 'row')}{when}{which} with {version} in {seconds:.1f} s on {engine}"
    found = ScoreResult(
        dataset=manifest.ref if manifest else None,
        scored_by=version,
        engine=engine,
        rows_per_second=round(rows / seconds, 1),
        summary=f"{summary}.",
    )
    if manifest is None:
        return found.model_copy(update={"summary": f"{summary}; the last shard writes the dataset."})
    if shard is not None:
        found = found.model_copy(
            update={"summary": f"{summary}. Wrote the {counted(manifest.rows, 'row')} of all shards."}
        )
    if not spec.shadow:
        index.update(context.store, spec.model, "scoring", manifest.name)
    if table is None or spec.write_to is None:
        return found
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
