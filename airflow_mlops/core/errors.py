"""The errors that users see. A message has one or two sentences: what is wrong, where, and what to do."""

from __future__ import annotations


class MLOpsError(Exception):
    """Base class of all errors of this package.

    :cvar retryable: whether the step may succeed if it runs again unchanged; if not, operators fail the task without a
        retry
    """

    retryable: bool = False


class SpecError(MLOpsError):
    """A parameter is missing, of the wrong type, or contradicts another one."""


class ConnectionNotFoundError(MLOpsError):
    """An Airflow connection that the step uses is not defined where the step runs."""


class SourceError(MLOpsError):
    """The source cannot be read: unreachable database, failed query, unreadable file."""

    retryable = True


class EmptyWindowError(MLOpsError):
    """The source has no row in the requested window."""


class SchemaError(MLOpsError):
    """A column is missing, or its type has changed."""


class StoreError(MLOpsError):
    """The artifact store cannot be read or written."""

    retryable = True


class DatasetNotFoundError(MLOpsError):
    """There is no dataset of this name for this window."""


class DatasetCorruptError(MLOpsError):
    """A file of a dataset does not match the hash in the dataset's manifest."""


class DatasetPurgedError(MLOpsError):
    """The files of a dataset were deleted by PurgePredictionsOperator. The manifest holds the time."""


class ValidationError(MLOpsError):
    """The data does not meet the expectations of the suite."""


class FeatureStoreError(MLOpsError):
    """A Feast repository cannot be loaded, applied or read."""


class MaterializationError(FeatureStoreError):
    """Feast failed while it wrote features. A retry continues after the last finished chunk."""

    retryable = True


class LeakageError(MLOpsError):
    """A feature is newer than its event, or predicts the label too well on its own."""


class TrainingError(MLOpsError):
    """A model cannot be fitted to the data."""


class EvaluationError(MLOpsError):
    """Predictions cannot be measured: no rows, missing labels, only one class, or NaN in the scores."""


class MetricError(MLOpsError):
    """A user's own metric raised an error, or did not return a finite number."""


class RegistryError(MLOpsError):
    """A request to the MLflow tracking server or registry failed."""


class RegistryUnavailableError(RegistryError):
    """The MLflow server did not answer, or answered with a server error."""

    retryable = True


class ModelUnhealthyError(MLOpsError):
    """The task does not accept the decision of monitoring about a model."""


class ApprovalTimeoutError(MLOpsError):
    """Nobody answered a request for approval in time, and ``on_timeout`` is ``fail``."""


class ModelFormatError(MLOpsError):
    """A model cannot be exported, or is stored in a format that can run code when it is loaded."""


class ComputeError(MLOpsError):
    """The place named by ``run_on`` could not run the step."""

    retryable = True


class ImageError(ComputeError):
    """A container image cannot be pulled, or what it is asked to run is not in it."""

    retryable = False


class NoCapacityError(ComputeError):
    """No node had room for the pod before the timeout."""


class MemoryLimitError(ComputeError):
    """The step was killed because it needed more memory than its limit.

    :param grows: whether the next try gets more memory, which makes the error retryable
    """

    def __init__(self, message: str, grows: bool = False) -> None:
        super().__init__(message)
        self.retryable = grows


def by_name(name: str) -> type[MLOpsError]:
    """The error class of this module called ``name``, or :class:`MLOpsError` if there is none."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, MLOpsError) else MLOpsError


def one_line(error: BaseException, most: int | None = None) -> str:
    """The class and message of another library's error in one line without a final period, for use in a sentence.

    :param most: the greatest number of characters of the message; by default unlimited
    """
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:most].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
