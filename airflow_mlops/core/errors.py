"""The errors a user meets. Each message is one sentence or two: what is wrong, where, and what to do."""

from __future__ import annotations


class MLOpsError(Exception):
    """Base of every error this package raises on purpose.

    ``retryable`` says whether the same step may succeed when it simply runs again. Operators fail the
    task without a retry where it is ``False``.
    """

    retryable: bool = False


class SpecError(MLOpsError):
    """A parameter is missing, of the wrong type, or contradicts another one."""


class ConnectionNotFoundError(MLOpsError):
    """An Airflow connection that the step names is not defined where the step runs."""


class SourceError(MLOpsError):
    """The source could not be read: unreachable database, failed query, unreadable file."""

    retryable = True


class EmptyWindowError(MLOpsError):
    """The source holds no row in the window that was asked for."""


class SchemaError(MLOpsError):
    """A column is missing, or has another type than it had before."""


class StoreError(MLOpsError):
    """The artifact store could not be read or written."""

    retryable = True


class DatasetNotFoundError(MLOpsError):
    """No dataset of that name exists for that window."""


class DatasetCorruptError(MLOpsError):
    """The bytes of a dataset no longer match the hash in its manifest."""


class DatasetPurgedError(MLOpsError):
    """The files of a dataset were deleted by retention; its manifest says when."""


class ValidationError(MLOpsError):
    """Data did not meet the expectations of its suite."""


class FeatureStoreError(MLOpsError):
    """A Feast repository could not be loaded, applied or read."""


class MaterializationError(FeatureStoreError):
    """Feast failed while it wrote features; what was finished is kept, and a retry goes on from there."""

    retryable = True


class LeakageError(MLOpsError):
    """A feature is newer than its event, or alone predicts the label suspiciously well."""


class TrainingError(MLOpsError):
    """A model could not be fitted to the data it was given."""


class EvaluationError(MLOpsError):
    """Predictions could not be measured: no rows, missing labels, one class only, NaN in the scores."""


class MetricError(MLOpsError):
    """A user's own metric raised an error, or did not return a finite number."""


class RegistryError(MLOpsError):
    """The MLflow tracking server or registry could not be used as asked."""


class RegistryUnavailableError(RegistryError):
    """The MLflow server did not answer, or answered that it is not well."""

    retryable = True


class ModelUnhealthyError(MLOpsError):
    """Monitoring's verdict on a model is none of those that the task accepts."""


class ApprovalTimeoutError(MLOpsError):
    """Nobody answered a request for approval in time, and the task was told to fail then."""


class ModelFormatError(MLOpsError):
    """A model is stored in a format that may run code when it is loaded, or cannot be exported."""


class ComputeError(MLOpsError):
    """The place named by ``run_on`` could not run the step."""

    retryable = True


class ImageError(ComputeError):
    """A container image cannot be pulled, or what it is asked to run is not in it."""

    retryable = False


class NoCapacityError(ComputeError):
    """No node could take the pod for as long as the task was willing to wait."""


class MemoryLimitError(ComputeError):
    """The step needed more memory than it was given, and was ended for it.

    :param grows: whether the next try gets more
    """

    def __init__(self, message: str, grows: bool = False) -> None:
        super().__init__(message)
        self.retryable = grows


def by_name(name: str) -> type[MLOpsError]:
    """Return the exception class called ``name``, or :class:`MLOpsError` for a name that is not here."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, MLOpsError) else MLOpsError


def one_line(error: BaseException, most: int | None = None) -> str:
    """What an error of another library says, for use inside a sentence: its class and message, without a full stop.

    :param most: how many characters of the message to keep; all unless given
    """
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:most].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
