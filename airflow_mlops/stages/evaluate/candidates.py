"""Load the candidates and the held-out data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError, SchemaError, SpecError, named
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.columns import reserved_message
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.sample_weights import sample_weights
from airflow_mlops.data.selection import select_one
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import HeldOut, SplitPart
from airflow_mlops.metrics.forecasts import metrics_of
from airflow_mlops.models.contract_file import has_contract, read_contract
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.pyfunc import scorer as pyfunc_model
from airflow_mlops.models.pyfunc.scorer import PyfuncModel
from airflow_mlops.models.scorer import Scorer
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.common_rows import common_training_set
from airflow_mlops.stages.evaluate.spec import EvaluateSpec
from airflow_mlops.stages.shards import Round


@dataclass(frozen=True)
class Candidate:
    """A model version with its loaded model."""

    ref: ModelVersionRef
    model: Scorer

    @property
    def contract(self) -> ModelContract:
        return self.model.contract


def split_part(
    spec: EvaluateSpec, folders: Mapping[ModelVersionRef, Path], context: StepContext, shard: Round[Any] | None = None
) -> SplitPart:
    """Open the split part ``spec.part`` of ``spec.dataset``, which has the held-out rows.

    If ``spec.dataset`` is not set, the training set of the candidates is opened, see
    :func:`airflow_mlops.stages.evaluate.common_rows.common_training_set`.

    :param folders: folder with the downloaded files of each candidate
    :param shard: the shard of the task, which opens the dataset of the first shard; ``None`` without shards
    :raises SpecError: the dataset has no label, or ``spec.dataset`` is required because the candidates have no common
        held-out rows
    """
    if spec.dataset:
        dataset = select_one(context.store, spec.dataset, shard.kept if shard is not None else context.kept)
    elif shard is not None:
        # The comparison of the training sets reads them completely.
        claimed = shard.claim(
            "dataset", lambda: _trained_on(folders, spec.part, context.store).ref.model_dump(mode="json")
        )
        dataset = open_dataset(context.store, DatasetRef.model_validate(claimed))
    else:
        dataset = _trained_on(folders, spec.part, context.store)
    details = dataset.manifest.details
    if not details.get("label"):
        raise SpecError(
            f"Dataset {dataset.manifest.name!r} has no label, so models cannot be evaluated on it. Set `label` in "
            "BuildTrainingSetOperator."
        )
    return SplitPart(dataset, spec.part, str(details["label"]), details["task"])


def held_out(found: SplitPart) -> HeldOut:
    """Read the labels of the held-out rows.

    :raises EvaluationError: the split part has no rows
    """
    column = found.dataset.table(found.part, [found.label]).column(found.label)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if len(column) == 0:
        raise EvaluationError(
            f"Split part {found.part!r} of dataset {found.dataset.manifest.name!r} has no rows. Use a longer window, another "
            "split, or another `part`."
        )
    return HeldOut(found.dataset, found.part, found.label, found.task, column.to_numpy())


def _trained_on(folders: Mapping[ModelVersionRef, Path], part: str, store: ArtifactStore) -> Dataset:
    if foreign := [str(item) for item, folder in folders.items() if not has_contract(folder)]:
        raise SpecError(
            f"TrainOperator did not train {foreign[0]}, so its training set is unknown. Set `dataset` to the dataset to "
            "evaluate it on."
        )
    return common_training_set([read_contract(folder) for folder in folders.values()], part, store)


def with_weights(data: HeldOut, candidates: Sequence[Candidate], *, live: bool) -> HeldOut:
    """Return the held-out rows with the row weights that the candidates were trained with.

    The champion, and models that TrainOperator did not train, are measured with the same weights.

    :param live: whether the rows are predictions in production. Such rows are returned without weights if they lack the
        column of weights, if scoring hashed it, or if all its values are null. Held-out rows must have the column
    :raises SpecError: candidates were trained with different columns of weights, or only some of them with weights
    :raises WeightError: the dataset lacks the column, or its values are not weights
    """
    # The contract of a model that TrainOperator did not train names a column of weights only if an earlier evaluation
    # took it from the other candidates. Without a column, such a model can be evaluated with any weights.
    columns = {
        item.ref: item.contract.sample_weight
        for item in candidates
        if item.contract.sample_weight or not isinstance(item.model, PyfuncModel)
    }
    column = next(iter(columns.values()), None)
    if other := next((ref for ref, name in columns.items() if name != column), None):
        listed = " and ".join(
            f"{ref} {f'with the weights in column {columns[ref]!r}' if columns[ref] else 'without weights'}"
            for ref in (next(iter(columns)), other)
        )
        raise SpecError(
            f"All models of an evaluation are measured with the same weights, but there are {listed}. Set the same "
            "`sample_weight` in all trainings, or evaluate these candidates in separate tasks."
        )
    if column is None or (live and not _has_weights(data, column)):
        return data
    return replace(data, weight=sample_weights(data.dataset, data.part, column), weight_column=column)


def _has_weights(data: HeldOut, column: str) -> bool:
    """Return whether a column of predictions exists, is not hashed, and has values."""
    manifest = data.dataset.manifest
    if column not in manifest.column_names or column in manifest.details.get("hashed", ()):
        return False
    values = data.dataset.table(data.part, [column]).column(column)
    return not pc.all(pc.is_null(values, nan_is_null=True)).as_py()


def load(folder: Path, ref: ModelVersionRef, data: SplitPart, *, allow_pyfunc: bool) -> Candidate:
    """Load the model of a version and return it as a candidate.

    :param folder: folder with the downloaded files of the version
    :param allow_pyfunc: whether code that is stored with the model may run
    :raises ModelFormatError: the model cannot be loaded, or loading it would run code and ``allow_pyfunc`` is false
    :raises SchemaError: the input columns of the model are unknown, or absent from ``data``
    """
    if has_contract(folder):
        return Candidate(ref, OnnxModel.load(folder))
    target = pyfunc_model.Target(
        dataset=data.dataset.manifest.name,
        schema=data.dataset.schema,
        label=data.label,
        task=data.task,
        classes=[] if data.task == "regression" else data.classes(),
        positive=data.positive,
    )
    model = pyfunc_model.load(folder, str(ref), target, allow_pyfunc=allow_pyfunc)
    # The objective of the model is unknown, but the rows show that it is a forecast.
    judged_by = next(iter(metrics_of(data.dataset.manifest.details)), None)
    model.contract = model.contract.model_copy(update={"judged_by": judged_by})
    return Candidate(ref, model)


def for_positive(candidate: Candidate, positive: Any) -> Candidate:
    """Set the positive class of a candidate, and return the candidate.

    The score of the candidate is then the probability of this class. All models are measured for the same class.

    :param candidate: the candidate, which is changed
    :param positive: the positive class; ``None`` unless the task is binary
    :raises SchemaError: the candidate does not predict the class ``positive``
    """
    contract = candidate.contract
    if positive is None:
        return candidate
    if positive not in contract.classes:
        raise SchemaError(
            f"{candidate.ref} predicts the classes {' and '.join(map(repr, contract.classes))}, but all models are "
            f"measured for the positive class {positive!r}. Set `dataset` to a dataset whose positive class this model "
            "predicts."
        )
    candidate.model.contract = contract.with_positive(positive)
    return candidate


def check_contract(candidate: Candidate, data: SplitPart, *, features: bool = True) -> None:
    """Check that ML task, label and features of the candidate match the held-out data.

    :param features: whether the data must have the features
    :raises SchemaError: ML task or label are different, a feature is not a column of the dataset, or the name of a
        feature is reserved
    """
    contract, name = candidate.contract, data.dataset.manifest.name
    if (contract.task, contract.label) != (data.task, data.label):
        raise SchemaError(
            f"{candidate.ref} predicts the label {contract.label!r} ({contract.task}), but dataset {name!r} has the label "
            f"{data.label!r} ({data.task}). Set `dataset` to a dataset with the label and ML task of this model."
        )
    if taken := reserved_message([feature.name for feature in contract.features], f"The signature of {candidate.ref}"):
        raise SchemaError(taken)
    if not features:
        return
    present = {column.name for column in data.dataset.manifest.columns}
    if missing := [feature.name for feature in contract.features if feature.name not in present]:
        raise SchemaError(
            f"{candidate.ref} needs the {named('feature', missing)}, which dataset {name!r} does not have. "
            "Add every feature to the dataset, or set another `dataset`."
        )
