"""Read live evidence: the labelled predictions that several versions made for the same rows in production.

Rows are paired by their identity: keys and event time. If the online endpoint made all predictions, a row is identified
by its request and its number in the request. A row is compared if each version has predicted it exactly once, and if
its label is known in each dataset. The compared rows are written as a dataset. The evaluation uses it as held-out data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, EvaluationError, SpecError
from airflow_mlops.core.references import Chosen, DatasetRef, ModelVersionRef
from airflow_mlops.data.columns import ADDED_COLUMNS, LABEL, LABEL_AT, PREDICTION_COLUMNS
from airflow_mlops.data.datasets import DATA, Dataset, DatasetWriter, open_dataset
from airflow_mlops.data.row_identity import row_ids, shared_rows
from airflow_mlops.data.selection import select, window_of
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.types import common_schema, conformed
from airflow_mlops.gates.evidence import HeldOut
from airflow_mlops.metrics.predictions import Predictions, of_score
from airflow_mlops.models import contracts
from airflow_mlops.models.contract_file import has_contract
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.pyfunc import scorer as pyfunc_model
from airflow_mlops.models.training_data import TRAIN
from airflow_mlops.registry.records.verdict import LiveRows
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.candidates import Candidate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from numpy.typing import NDArray

# Columns that identify a prediction of the online endpoint.
_REQUEST = ("request_id", "request_row", "scored_at")
_VERSION = "model_version"
_ADDED = frozenset({*ADDED_COLUMNS, LABEL, LABEL_AT})


@dataclass(frozen=True)
class Live:
    """The rows that all compared versions predicted in production, and their predictions.

    :param data: the rows with their labels
    :param rows: the number of compared rows, and the number of rows that were left out
    :param logged: columns ``prediction`` and ``score`` of each version, by number, in the order of ``data``. The score
        of a binary task is the probability of the positive class of ``data``
    """

    data: HeldOut
    rows: LiveRows
    logged: Mapping[int, pa.Table] = field(repr=False)

    def predictions(self, candidate: Candidate) -> Predictions:
        """Return the logged predictions of a version, whose contract must have the positive class of the data.

        The log has one score for each row. Class probabilities are therefore known only for a binary model whose scores
        are probabilities and not labels.
        """
        contract, found = candidate.contract, self.logged[candidate.ref.version]
        prediction = _labels(found["prediction"])
        score = found["score"].to_numpy().astype(np.float64)
        if contract.task != "binary" or _gives_labels_only(candidate, score):
            return Predictions(prediction, score, None)
        return of_score(prediction, score, contract)

    def has_features(self, contract: ModelContract) -> bool:
        """Return whether the rows have all features of a model. A hashed feature counts as absent."""
        details = self.data.dataset.manifest.details
        present = {*self.data.dataset.manifest.column_names} - {*details.get("hashed", ())}
        return present.issuperset(feature.name for feature in contract.features)


def load(
    client: MlflowClient, store: ArtifactStore, folder: Path, ref: ModelVersionRef, allow_pyfunc: bool
) -> Candidate:
    """Load a version, with the model contract that its predictions were made with.

    :param folder: folder with the downloaded files of the version
    :param allow_pyfunc: whether code that is stored with the model may run
    :raises ModelFormatError: the version cannot be loaded or was never evaluated, or loading would run code and
        ``allow_pyfunc`` is false
    """
    if has_contract(folder):
        return Candidate(ref, OnnxModel.load(folder))
    contract = contracts.read(client, store, ref).contract
    return Candidate(ref, pyfunc_model.load_measured(folder, str(ref), contract, allow_pyfunc=allow_pyfunc))


def read(evidence: Chosen, versions: Sequence[ModelVersionRef], context: StepContext) -> Live:
    """Pair the labelled predictions of several versions, and write the compared rows as a dataset.

    :param evidence: datasets of labelled predictions
    :param versions: versions of one model
    :raises SpecError: a dataset does not contain labelled predictions of the model, identifies rows in another way than
        the others, or has another label; a version has no predictions; or the labels of a row differ
    :raises EvaluationError: no row can be compared
    """
    model = versions[0].model
    labelled = datasets(evidence, context)
    _check(labelled, model)
    identity = _identity(labelled)
    first = labelled[0].manifest.details
    found = [_scored(ref, labelled, identity, first.get("positive")) for ref in versions]
    rows, places = _pair(found)
    labels = [item.table[LABEL].take(pa.array(index)) for item, index in zip(found, places, strict=True)]
    known = ~np.logical_or.reduce([pc.is_null(item, nan_is_null=True).to_numpy() for item in labels])
    places = [index[known] for index in places]
    _same_labels([item.filter(pa.array(known)) for item in labels], versions)
    counts = rows.model_copy(update={"rows": int(known.sum()), "unlabelled": int((~known).sum())})
    if not counts.rows:
        raise EvaluationError(f"The evidence has no row on which the versions can be compared. {counts.sentence}")
    dataset = _write(found, places, first, counts, context)
    truth = _labels(dataset.table(DATA, [first["label"]])[first["label"]])
    return Live(
        data=HeldOut(dataset, DATA, first["label"], first["task"], truth),
        rows=counts,
        logged={
            item.ref.version: item.table.select(["prediction", "score"]).take(pa.array(index))
            for item, index in zip(found, places, strict=True)
        },
    )


def refuse_training_rows(
    contracts: Mapping[ModelVersionRef, ModelContract], data: HeldOut, store: ArtifactStore
) -> None:
    """Check that no version was fitted to the rows of the evidence.

    A version that scores a past window may have been fitted to the rows of this window. A training set is not checked
    if it no longer exists, or does not identify rows by the same columns as the evidence.

    :param contracts: the contract of each version
    :param data: the rows of the evidence
    :raises SpecError: a version was fitted to some of the rows
    """
    for ref, contract in contracts.items():
        if not contract.dataset_id:
            continue
        try:
            trained_on = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
            part = TRAIN if contract.refit_of is None and TRAIN in trained_on.ref.parts else None
            shared = shared_rows(data.dataset, data.part, trained_on, part)
        except DatasetNotFoundError:
            continue
        if shared:
            raise SpecError(
                f"{ref} was trained on {shared:,} of the {len(data.truth):,} rows of the evidence. Set `evidence` to "
                "predictions of windows after its training."
            )


@dataclass(frozen=True)
class _Scored:
    """The labelled predictions of one version.

    :param datasets: the datasets with predictions of the version
    :param ids: hash of the identity of each row, shape (n,)
    :param table: label, prediction and score of each row
    """

    ref: ModelVersionRef
    datasets: Sequence[Dataset]
    ids: NDArray[np.uint64]
    table: pa.Table


def datasets(evidence: Chosen, context: StepContext) -> list[Dataset]:
    """Open the datasets of labelled predictions, each once."""
    items = evidence if isinstance(evidence, list) else [evidence]
    found = [dataset for item in items for dataset in select(context.store, item, kept=context.kept)]
    return list({(dataset.manifest.id, str(dataset.window)): dataset for dataset in found}.values())


def _check(datasets: Sequence[Dataset], model: str) -> None:
    first = datasets[0].manifest
    for dataset in datasets:
        manifest = dataset.manifest
        if not {LABEL, *PREDICTION_COLUMNS} <= {*manifest.column_names} or not manifest.details.get("task"):
            raise SpecError(
                f"Dataset {manifest.name!r} does not contain labelled predictions. Set `evidence` to the datasets that "
                "JoinLabelsOperator wrote."
            )
        if manifest.details.get("model") != model:
            raise SpecError(
                f"Dataset {manifest.name!r} has predictions of model {manifest.details.get('model')!r}, but the candidates "
                f"belong to {model!r}. Remove it from `evidence`."
            )
        for key in ("label", "task"):
            if manifest.details.get(key) != first.details.get(key):
                raise SpecError(
                    f"Dataset {first.name!r} has the {key} {first.details.get(key)!r}, and dataset {manifest.name!r} has "
                    f"{manifest.details.get(key)!r}. Join the same label to the predictions of all versions."
                )


def _identity(datasets: Sequence[Dataset]) -> list[str]:
    """Return the columns that identify a row in all datasets."""
    if all({*_REQUEST} <= {*dataset.manifest.column_names} for dataset in datasets):
        return [*_REQUEST]
    found = []
    for dataset in datasets:
        details = dataset.manifest.details
        keys = [*details.get("keys", []), *filter(None, [details.get("timestamp")])]
        if not details.get("keys"):
            raise SpecError(
                f"Dataset {dataset.manifest.name!r} has no keys, so its rows cannot be paired with those of other versions. "
                "Set `keys` in the BuildTrainingSetOperator that builds the rows to score."
            )
        found.append(keys)
    for dataset, keys in zip(datasets, found, strict=True):
        if {*keys} != {*found[0]}:
            raise SpecError(
                f"Dataset {datasets[0].manifest.name!r} identifies rows by {', '.join(found[0])}, and dataset "
                f"{dataset.manifest.name!r} by {', '.join(keys)}, so they cannot be paired. Score the same dataset with "
                "each version."
            )
    return found[0]


def _scored(ref: ModelVersionRef, datasets: Sequence[Dataset], identity: Sequence[str], positive: Any) -> _Scored:
    """Read the predictions of a version.

    :param identity: columns that identify a row
    :param positive: the positive class whose probability is returned as the score; ``None`` unless the task is binary
    :raises SpecError: there are no labelled predictions of the version
    """
    columns = list(dict.fromkeys([*identity, LABEL, "prediction", "score"]))
    own, parts = [], []
    for dataset in datasets:
        batches = [*_of_version(dataset, ref.version, columns)]
        if batches:
            own.append(dataset)
            part = pa.Table.from_batches(batches)
            if positive is not None and dataset.manifest.details.get("positive") != positive:
                place = part.schema.get_field_index("score")
                part = part.set_column(place, "score", pc.subtract(1.0, part["score"]))
            parts.append(part)
    if not parts:
        raise SpecError(
            f"`evidence` has no labelled predictions of {ref}. Add the dataset that JoinLabelsOperator wrote for them."
        )
    table = _together(parts, ref)
    return _Scored(ref, own, row_ids(table, identity), table)


def _together(parts: Sequence[pa.Table], ref: ModelVersionRef) -> pa.Table:
    what = f"The datasets with predictions of {ref}"
    schema = common_schema((part.schema for part in parts), what, "Score the windows again.")
    return pa.concat_tables([conformed(part, schema, what) for part in parts])


def _of_version(dataset: Dataset, version: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for batch in dataset.batches(columns=[*columns, _VERSION]):
        rows = batch.filter(pc.equal(batch.column(_VERSION), version))
        if rows.num_rows:
            yield rows.select(list(columns))


def _pair(found: Sequence[_Scored]) -> tuple[LiveRows, list[NDArray[np.int64]]]:
    """Find the rows that each version predicted exactly once.

    :return: the numbers of rows that were left out (the other counts are 0); and for each version, the positions of the
        compared rows among the rows of this version. The compared rows are in the order of the first version
    """
    distinct, repeated = zip(*(_distinct(item.ids) for item in found), strict=True)
    common = reduce(np.intersect1d, distinct)
    everywhere = np.unique(np.concatenate(distinct)).size
    ambiguous = np.intersect1d(common, np.unique(np.concatenate(repeated)))
    wanted = found[0].ids[np.isin(found[0].ids, np.setdiff1d(common, ambiguous))]
    places = []
    for item in found:
        order = np.argsort(item.ids, kind="stable")
        places.append(order[np.searchsorted(item.ids, wanted, sorter=order)] if wanted.size else np.empty(0, np.int64))
    return LiveRows(rows=0, unpaired=everywhere - common.size, repeated=ambiguous.size, unlabelled=0), places


def _distinct(ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    values, counts = np.unique(ids, return_counts=True)
    return values, values[counts > 1]


def _same_labels(labels: Sequence[pa.ChunkedArray], versions: Sequence[ModelVersionRef]) -> None:
    first = labels[0]
    for ref, other in zip(versions[1:], labels[1:], strict=True):
        try:
            differ = pc.sum(pc.not_equal(first, other.cast(first.type))).as_py() or 0
        except pa.ArrowException:
            differ = len(other)
        if differ:
            raise SpecError(
                f"The labels of {counted(differ, 'row')} differ between the predictions of {versions[0]} and {ref}. Join the same "
                "labels to both again."
            )


def _write(
    found: Sequence[_Scored],
    places: Sequence[NDArray[np.int64]],
    details: Mapping[str, Any],
    counts: LiveRows,
    context: StepContext,
) -> Dataset:
    """Write the compared rows as a dataset, with the label and the keys, features and watched columns of all versions.

    :param found: the labelled predictions of each version
    :param places: positions of the compared rows, for each version, from :func:`_pair`
    :param details: the details in the manifest of the first dataset of the evidence
    :param counts: numbers of compared and left-out rows, which are stored in the manifest
    """
    first = found[0]
    store, label = context.store, str(details["label"])
    columns = _columns(first.datasets, label)
    added = _added(found[1:], places[1:], {*columns, label})
    truth = first.table[LABEL].take(pa.array(places[0])).combine_chunks()
    kept = np.zeros(len(first.ids), dtype=bool)
    kept[places[0]] = True
    what = f"The datasets with predictions of {first.ref}"
    schema = common_schema((item.schema for item in first.datasets), what, "Score the windows again.")
    schema = pa.schema([schema.field(name) for name in columns])
    datasets = {item.manifest.id: item for scored in found for item in scored.datasets}
    with DatasetWriter(store, f"{first.ref.model}_evidence") as writer:
        read, written = 0, 0
        for dataset in first.datasets:
            for batch in _of_version(dataset, first.ref.version, [c for c in columns if c in dataset.schema.names]):
                rows = conformed(batch, schema, what).filter(pa.array(kept[read : read + batch.num_rows]))
                read += batch.num_rows
                extra = {**{name: values.slice(written, rows.num_rows) for name, values in added.items()}}
                extra[label] = truth.slice(written, rows.num_rows)
                written += rows.num_rows
                fields = [*rows.schema, *(pa.field(name, values.type) for name, values in extra.items())]
                writer.write(pa.RecordBatch.from_arrays([*rows.columns, *extra.values()], schema=pa.schema(fields)))
        manifest, _ = writer.commit(
            window=window_of(list(datasets.values())),
            description=f"Rows that {', '.join(str(item.ref) for item in found)} predicted, with labels",
            source={"model": first.ref.model, "model_versions": [item.ref.version for item in found]},
            parents=[item.ref for item in datasets.values()],
            details={
                "model": first.ref.model,
                **{key: details.get(key) for key in ("label", "task", "classes", "positive", "keys", "timestamp")},
                "hashed": sorted(
                    {name for item in datasets.values() for name in item.manifest.details.get("hashed", ())}
                ),
                "live": counts.model_dump(),
            },
            provenance=context.provenance,
        )
    return Dataset(store, manifest)


def _columns(datasets: Iterable[Dataset], label: str) -> list[str]:
    names = dict.fromkeys(name for dataset in datasets for name in dataset.schema.names)
    return [name for name in names if name not in _ADDED and name != label]


def _added(others: Sequence[_Scored], places: Sequence[NDArray[np.int64]], present: set[str]) -> dict[str, pa.Array]:
    """Return the columns that ``present`` does not contain, such as features that only some versions have.

    The values are in the row order of the first version.

    :param others: the labelled predictions of the versions other than the first
    :param places: positions of the compared rows, for each of these versions
    :param present: names of the columns that the first version provides
    """
    added: dict[str, pa.Array] = {}
    for item, index in zip(others, places, strict=True):
        wanted = [name for name in _columns(item.datasets, "") if name not in present and name not in added]
        if not wanted:
            continue
        parts = []
        for dataset in item.datasets:
            own = [name for name in wanted if name in dataset.schema.names]
            # The label is read as well, because a table without columns has no number of rows.
            parts.append(pa.Table.from_batches(_of_version(dataset, item.ref.version, [*own, LABEL])))
        table = _together(parts, item.ref)
        added |= {name: table[name].take(pa.array(index)).combine_chunks() for name in wanted}
    return added


def _labels(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    found: NDArray[Any] = column.to_numpy()
    return found


def _gives_labels_only(candidate: Candidate, score: NDArray[np.float64]) -> bool:
    """Return whether the scores of a binary model are labels. The log does not say whether they are probabilities."""
    return isinstance(candidate.model, pyfunc_model.PyfuncModel) and bool(np.isin(score, (0.0, 1.0)).all())
