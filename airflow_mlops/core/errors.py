"""The errors that users see. A message says in a few sentences what is wrong, where, and what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from airflow_mlops.core.secrets import mask


class MLOpsError(Exception):
    """Base class of all errors of this package.

    The message contains no credentials, see :mod:`airflow_mlops.core.secrets`.

    :cvar retryable: whether the step may succeed if it runs again unchanged. If ``False``, operators fail the task
        without a retry
    """

    retryable: bool = False

    def __init__(self, *args: object) -> None:
        super().__init__(*(mask(item) if isinstance(item, str) else item for item in args))


class SpecError(MLOpsError):
    """A parameter is not set, has the wrong type, or contradicts a different parameter."""


class ConnectionNotFoundError(MLOpsError):
    """An Airflow connection that the step needs is not defined where the step runs."""


class ConnectionUnavailableError(MLOpsError):
    """An Airflow connection could not be looked up: a secrets backend or Airflow's API server did not answer."""

    retryable = True


class SourceError(MLOpsError):
    """The source cannot be read, for example because a database is unreachable or a query failed."""

    retryable = True


class MalformedFileError(SourceError):
    """A file of the source is damaged, or its content does not match its format or the parameters of the task."""

    retryable = False


class FilesNotReadyError(SourceError):
    """The files of the source do not exist yet, or a program is still writing them."""


class TableError(MLOpsError):
    """A table of a database, Delta table or Iceberg table cannot hold the predictions, or rejects them."""


class TableUnavailableError(TableError):
    """A table, its database or its catalog cannot be reached, or failed for a reason that may pass, such as a lock."""

    retryable = True


class EmptyWindowError(MLOpsError):
    """The source has no rows in the requested window."""


class SchemaError(MLOpsError):
    """A required column is missing, or a column does not have the expected type."""


class UnsupportedDataError(MLOpsError):
    """A library such as Arrow, DuckDB or pandas cannot process the data, and no more specific error class applies.

    The task's log contains the traceback of the library.
    """


class SpillError(MLOpsError):
    """The temporary files of a step do not fit on the disk, or the memory limit is too small for a query.

    :param disk_full: whether the disk is full. Only then is the error retryable, because a retry may find more
        space
    """

    def __init__(self, message: str, disk_full: bool = False) -> None:
        super().__init__(message)
        self.retryable = disk_full


class StoreError(MLOpsError):
    """The artifact store cannot be read or written."""

    retryable = True


class DatasetNotFoundError(MLOpsError):
    """The artifact store has no dataset with the requested name and window."""


class IncompleteWindowError(MLOpsError):
    """A part of the requested time window is not covered by any dataset."""


class DatasetCorruptError(MLOpsError):
    """A file of a dataset does not match the hash in the dataset's manifest, or the manifest does not match its id."""


class DatasetFormatError(MLOpsError):
    """A newer version of this package wrote the dataset."""


class DatasetPurgedError(MLOpsError):
    """The files of the dataset were deleted by PurgePredictionsOperator or ``airflow mlops purge``."""


class ValidationError(MLOpsError):
    """The data does not meet the expectations of its Great Expectations suite."""


class FeatureStoreError(MLOpsError):
    """A Feast repository cannot be loaded, applied or read."""


class OfflineStoreError(FeatureStoreError):
    """The offline store of a Feast repository failed, for example because it cannot be reached."""

    retryable = True


class MaterializationError(FeatureStoreError):
    """Feast failed to materialize features. A retry continues after the last finished chunk of the window."""

    retryable = True


class LeakageError(MLOpsError):
    """A feature value is newer than its event, or a single feature predicts the label almost perfectly."""


class TrainingError(MLOpsError):
    """A model cannot be fitted to the data."""


class WeightError(MLOpsError):
    """The column of row weights is absent, is used for something else, or has values that are not weights."""


class MetricColumnError(MLOpsError):
    """A column that a metric names, such as a column of costs, is absent or has invalid values."""


class EvaluationError(MLOpsError):
    """Predictions cannot be evaluated, for example because labels are null or of a single class, or scores are NaN."""


class MetricError(MLOpsError):
    """A user-defined metric raised an exception, or did not return a finite number."""


class RegistryError(MLOpsError):
    """A request to the MLflow tracking server or registry failed."""


class RegistryUnavailableError(RegistryError):
    """The MLflow server did not answer, or answered with a server error."""

    retryable = True


class FeatureMismatchError(MLOpsError):
    """Too many logged rows have other features than the point-in-time join for the same time."""


class ModelUnhealthyError(MLOpsError):
    """The task does not accept the latest monitoring decision (healthy, watch or retrain) about a model."""


class ApprovalTimeoutError(MLOpsError):
    """Nobody approved or rejected a model before the timeout, and ``on_timeout`` is ``fail``."""


class ModelFormatError(MLOpsError):
    """A model cannot be exported, or is stored in a format that can run code when it is loaded."""


class ModelCorruptError(MLOpsError):
    """A file of a model version does not match its recorded hash, or a promotion lacks a required valid signature."""


class ComputeError(MLOpsError):
    """The environment that ``run_on`` selects (worker, process, pod, Ray or Spark) could not run the step."""

    retryable = True


class ImageError(ComputeError):
    """A container image cannot be pulled, or does not contain the command that it has to run."""

    retryable = False


class NoCapacityError(ComputeError):
    """No node had room for the pod before the timeout."""


class MemoryLimitError(ComputeError):
    """The step was killed because it exceeded its memory limit, or because its node ran out of memory.

    :param grows: whether the next try may have more memory: a higher limit, or memory of a node that other tasks used.
        Only then is the error retryable
    """

    def __init__(self, message: str, grows: bool = False) -> None:
        super().__init__(message)
        self.retryable = grows


class DeploymentError(ComputeError):
    """An endpoint did not become ready, or does not answer with the expected version and scores."""


def by_name(name: str) -> type[MLOpsError]:
    """Return the error class ``name``, or :class:`MLOpsError` if this module defines no such class."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, MLOpsError) else MLOpsError


def listed(names: Iterable[str]) -> str:
    """Format names as a list for a message. Names with line breaks or other control characters are quoted."""
    return ", ".join(name if name.isprintable() else repr(name) for name in names)


def told_apart(*texts: str) -> list[str]:
    """Quote texts for a message. Texts that look the same because they differ only by Unicode form are written with escapes."""
    looks = {unicodedata.normalize("NFKC", text) for text in texts}
    return [repr(text) if len(looks) == len(texts) else ascii(text) for text in texts]


def named(noun: str, names: Sequence[str]) -> str:
    """Return names after a noun in the singular or plural, such as ``column 'a'`` or ``columns 'a', 'b'``."""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


class NotCacheableError(Exception):
    """A step must be computed, because its cached result cannot be found or used.

    This error never leaves a step. The message is a clause with the reason, for the log.
    """


def one_line(error: BaseException, most: int | None = None) -> str:
    """Format an exception of another library on one line without a final full stop, for use inside another message.

    :param most: maximum length of the exception's message in characters; unlimited by default
    :return: the name of the exception's class, a colon and its message
    """
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:most].rstrip(". ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
