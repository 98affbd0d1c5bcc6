"""Find and load the champion with which the candidates are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import (
    DatasetNotFoundError,
    EvaluationError,
    ModelFormatError,
    RegistryError,
    RegistryUnavailableError,
    SchemaError,
)
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.row_identity import shared_rows
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.evidence import SplitPart
from airflow_mlops.registry.client import registry_errors
from airflow_mlops.registry.integrity import download_promoted, require_promoted
from airflow_mlops.registry.records.received import VERSION_TAG
from airflow_mlops.registry.versions import champion, version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.evaluate.candidates import Candidate, check_contract, for_positive, load

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")


class Champion(Model):
    """The champion of a model, and the version that is measured for it.

    :param ref: the champion; ``None`` if the model has no champion
    :param stand_in: the version that is measured instead of the champion, if the champion is a refit on held-out rows;
        otherwise ``None``
    :param problem: a sentence that says why the champion cannot be measured; ``None`` if it can be measured, or if there
        is no champion
    """

    ref: ModelVersionRef | None = None
    stand_in: ModelVersionRef | None = None
    problem: str | None = None

    @property
    def measured(self) -> ModelVersionRef | None:
        """Return the version to measure; ``None`` if there is no champion, or if the champion cannot be measured."""
        return None if self.problem is not None else self.stand_in or self.ref

    def with_problem(self, problem: str | None) -> Champion:
        """Return the champion with the reason why it cannot be measured; ``None`` if no reason was found."""
        return self if problem is None else self.model_copy(update={"problem": problem})


def find(
    client: MlflowClient, model: str, data: SplitPart, context: StepContext, *, allow_pyfunc: bool
) -> tuple[Champion, Candidate | None]:
    """Return the champion of a model, and the loaded version to measure.

    :param data: the held-out rows
    :param allow_pyfunc: whether code that is stored with the version may run
    :return: the champion, and the loaded version; ``None`` instead of the version if there is nothing to measure
    :raises ModelCorruptError: a file of the champion was changed after its promotion
    """
    ref = champion(client, model)
    if ref is None:
        return Champion(), None
    require_promoted(context.store, ref)
    loaded, problem = attempt(ref, lambda: _load(client, ref, data, context.store, allow_pyfunc))
    found = Champion(ref=ref, problem=problem)
    if loaded is not None:
        stand_in, problem = attempt(ref, lambda: _stand_in(client, loaded, data, context.store))
        found = found.model_copy(update={"stand_in": stand_in, "problem": problem})
    if found.stand_in is not None:
        context.progress(
            f"The champion {ref} is a refit of {found.stand_in} on all rows of the training set. These include held-out rows, so "
            f"{found.stand_in} is measured instead."
        )
        return open_measured(client, found, data, context.store, allow_pyfunc=allow_pyfunc)
    return found, loaded if found.problem is None else None


def open_measured(
    client: MlflowClient, found: Champion, data: SplitPart, store: ArtifactStore, *, allow_pyfunc: bool
) -> tuple[Champion, Candidate | None]:
    """Load the version whose predictions are measured for the champion.

    :param found: the champion, and the version to measure. For a refit, this is the version that was judged
    :return: the champion, with a problem if the version cannot be loaded, and the loaded version
    :raises ModelCorruptError: a file of the version was changed after its promotion
    """
    ref, measured = found.ref, found.measured
    if ref is None or measured is None:
        return found, None
    loaded, problem = attempt(ref, lambda: _load(client, measured, data, store, allow_pyfunc))
    return found.with_problem(problem), loaded


def comparable(loaded: Candidate, data: SplitPart, positive: object) -> Candidate:
    """Check that the version to measure suits the held-out rows, and set its positive class.

    :param positive: the positive class of the candidates; ``None`` unless the task is binary
    :raises SchemaError: the version predicts another label or other classes, or needs other features
    """
    check_contract(loaded, data)
    return for_positive(loaded, positive)


def attempt(ref: ModelVersionRef, work: Callable[[], T]) -> tuple[T | None, str | None]:
    """Do a part of the measurement of a champion. A champion that cannot be measured is not an error.

    :param ref: the champion
    :return: the result; or ``None``, and a sentence that says why the champion cannot be measured
    :raises RegistryUnavailableError: MLflow does not answer, so a retry may measure the champion
    """
    try:
        return work(), None
    except RegistryUnavailableError:
        raise
    except (EvaluationError, ModelFormatError, RegistryError, SchemaError) as error:
        return None, unmeasured(ref, str(error).rstrip("."))


def unmeasured(ref: ModelVersionRef, cause: str) -> str:
    """Return the sentence that says why a champion could not be measured.

    :param cause: the reason, without a full stop
    """
    return f"The champion {ref} could not be measured, so no candidate can be compared with it ({cause})."


def _load(
    client: MlflowClient, ref: ModelVersionRef, data: SplitPart, store: ArtifactStore, allow_pyfunc: bool
) -> Candidate:
    return load(download_promoted(client, store, ref), ref, data, allow_pyfunc=allow_pyfunc)


def _stand_in(
    client: MlflowClient, champion: Candidate, data: SplitPart, store: ArtifactStore
) -> ModelVersionRef | None:
    """Return the version to measure instead of a champion that was fitted again on held-out rows.

    :return: if the champion is a refit that was fitted to the rows of ``data``, the version before the refit, which was
        not fitted to the held-out rows; otherwise ``None``
    :raises EvaluationError: the champion was received from another registry
    """
    contract = champion.contract
    if contract.refit_of is None:
        return None
    try:
        trained_on = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0))
    except DatasetNotFoundError:
        return None
    # If rows are identified by other columns, it is not known whether the champion was fitted to them.
    if shared_rows(data.dataset, data.part, trained_on, None) == 0:
        return None
    with registry_errors(f"{champion.ref} cannot be read"):
        tags = client.get_model_version(champion.ref.model, str(champion.ref.version)).tags
    if VERSION_TAG in tags:
        # The contract was copied from the source registry, and its version numbers refer to the registered model there.
        raise EvaluationError(
            f"{champion.ref} was received from another registry, where it was fitted again on rows of the dataset "
            f"{data.dataset.manifest.name!r}, so it cannot be measured on them."
        )
    return version(client, champion.ref.model, contract.refit_of)
