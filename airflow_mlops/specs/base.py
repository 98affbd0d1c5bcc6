"""The vocabulary that all stages share: windows, references to datasets and model versions, calls and results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from airflow_mlops.exceptions import SpecError


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


UtcDatetime = Annotated[datetime, AfterValidator(_utc)]

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]

_YEAR, _MONTH = re.compile(r"^\d{4}$"), re.compile(r"^\d{4}-\d{2}$")
_DAY, _HOUR = re.compile(r"^\d{4}-\d{2}-\d{2}$"), re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}$")


class Model(BaseModel):
    """A frozen pydantic model that refuses fields it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Window(Model):
    """A half-open interval of time ``[start, end)`` in UTC.

    Written as text it is what an Airflow partition key looks like: ``2013``, ``2013-04``, ``2013-04-01``,
    ``2013-04-01T06`` (that year, month, day or hour), ``FIRST..LAST`` from the first of these through the
    last (``2013-01..2013-04`` is four months), or ``START/END`` with two ISO 8601 instants, where each side
    may itself be one of the short forms and stands for its beginning.
    """

    start: UtcDatetime
    end: UtcDatetime

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return _parse_window(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.end <= self.start:
            raise ValueError(f"window {self} is empty: its end must come after its start")
        return self

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"{_iso(self.start)}/{_iso(self.end)}"

    @property
    def key(self) -> str:
        """The window as a name that is safe in paths and sorts by time."""
        return f"{self.start:%Y%m%dT%H%M%SZ}-{self.end:%Y%m%dT%H%M%SZ}"

    @property
    def label(self) -> str:
        """The shortest text that means this window: ``2013-04`` for a calendar month."""
        start, end = self.start, self.end
        for text in (f"{start:%Y}", f"{start:%Y-%m}", f"{start:%Y-%m-%d}", f"{start:%Y-%m-%dT%H}"):
            if _parse_window(text) == {"start": start, "end": end}:
                return text
        return str(self)

    def contains(self, other: Window) -> bool:
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: Window) -> bool:
        return self.start < other.end and other.start < self.end

    def split(self, chunk: timedelta) -> Iterator[Window]:
        """Cut the window into consecutive windows no longer than ``chunk``."""
        start = self.start
        while start < self.end:
            end = min(start + chunk, self.end)
            yield Window(start=start, end=end)
            start = end


def _iso(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _parse_window(text: str) -> dict[str, datetime]:
    text = text.strip()
    if ".." in text:
        first, _, last = text.partition("..")
        return {"start": _parse_window(first)["start"], "end": _parse_window(last)["end"]}
    if "/" in text:
        first, _, last = text.partition("/")
        return {"start": _instant(first), "end": _instant(last)}
    start = _instant(text)
    if _YEAR.match(text):
        return {"start": start, "end": start.replace(year=start.year + 1)}
    if _MONTH.match(text):
        return {"start": start, "end": (start.replace(day=1) + timedelta(days=32)).replace(day=1)}
    if _DAY.match(text):
        return {"start": start, "end": start + timedelta(days=1)}
    if _HOUR.match(text):
        return {"start": start, "end": start + timedelta(hours=1)}
    raise ValueError(
        f"{text!r} is not a window: write 2013, 2013-04, 2013-04-01, 2013-04-01T06, FIRST..LAST or START/END in ISO 8601"
    )


def _instant(text: str) -> datetime:
    text = text.strip()
    try:
        if _YEAR.match(text):
            return datetime(int(text), 1, 1, tzinfo=timezone.utc)
        if _MONTH.match(text):
            return datetime(int(text[:4]), int(text[5:]), 1, tzinfo=timezone.utc)
        if _HOUR.match(text):
            text = f"{text}:00"
        return _utc(datetime.fromisoformat(text.replace("Z", "+00:00")))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a point in time: write it in ISO 8601, as in 2013-04-01T00:00:00Z"
        ) from error


class DatasetRef(Model):
    """Points at an immutable dataset in the artifact store; small enough for XCom.

    :param name: the dataset's name, shared by all its windows
    :param id: SHA-256 over the dataset's name, window, schema, files' hashes and parents
    :param rows: the number of rows, all parts together
    :param window: the time the rows belong to, if the dataset has one
    :param parts: rows per part; a plain dataset has the one part ``data``, a split one ``train`` and ``test``
    """

    name: Name
    id: str
    rows: int
    window: Window | None = None
    parts: dict[str, int] = Field(default_factory=dict)


def _as_dataset(value: Any) -> Any:
    # The result of an upstream step stands for the dataset in it, so `dataset=ingest.output` just works.
    if isinstance(value, dict) and "dataset" in value:
        return value["dataset"]
    return value


DatasetInput = Annotated[DatasetRef, BeforeValidator(_as_dataset)]


class ModelVersionRef(Model):
    """Points at a version in the MLflow model registry.

    :param model: the registered model's name
    :param version: its version
    :param run_id: the MLflow run that made it; empty where none did
    """

    model: str
    version: int
    run_id: str

    def __str__(self) -> str:
        return f"{self.model} v{self.version}"


class MLflowTarget(Model):
    """Which MLflow a step talks to: an Airflow connection of type ``mlflow``, or a plain tracking URI.

    Neither given, the step uses the connection ``mlflow_default``.
    """

    conn_id: str = "mlflow_default"
    experiment: str | None = None


class Request(Model):
    """A request for retraining, as it travels from monitoring to the training run, its MLflow tags and the ledger.

    :param id: names it: model and window, which asks once at most
    :param triggers: names of what asked
    :param reason: one sentence
    :param window: the window in which that was found
    :param created: when it was made
    :param metrics: the numbers the reason stands on
    :param report_url: the page that shows them, in the artifact store
    :param code: the version of the code that trains, if the policy names one
    """

    id: str
    model: str
    triggers: list[str]
    reason: str
    window: Window
    created: UtcDatetime
    metrics: dict[str, float] = Field(default_factory=dict)
    report_url: str = ""
    code: str | None = None


class Provenance(Model):
    """Where a call came from. It goes into manifests, MLflow tags and the ledger, never into a dataset's identity.

    :param requests: the requests for retraining that started the DAG run, oldest first
    """

    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 1
    partition_key: str | None = None
    user: str | None = None
    requests: list[Request] = Field(default_factory=list)

    def request(self, model: str) -> Request | None:
        """The newest request for retraining ``model``; ``None`` where nobody asked."""
        return next((request for request in reversed(self.requests) if request.model == model), None)


class Spec(Model):
    """What one step is asked to do. Holds names of connections, never secrets."""

    def connections(self) -> set[str]:
        """Ids of the Airflow connections this spec names, found in every field called ``conn_id`` or ``*_conn_id``."""
        return set(_connection_ids(self.model_dump(mode="json")))


def _connection_ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and item and (key == "conn_id" or key.endswith("_conn_id")):
                yield item
            else:
                yield from _connection_ids(item)
    elif isinstance(value, list):
        for item in value:
            yield from _connection_ids(item)


class Result(Model):
    """What one step answers: references and numbers, never data.

    :param summary: one sentence for the task's log that says what was done
    """

    summary: str


class StepCall(Model):
    """One step, ready to run anywhere: all that crosses the border to another process or a pod.

    :param step: the step's name, which is also its module under ``airflow_mlops.steps``
    :param spec: the step's spec as JSON
    :param store: URL of the artifact store
    :param key: key in the store under which the result is written
    :param version: version of ``airflow_mlops`` that made the call
    """

    step: Name
    spec: dict[str, Any]
    store: str
    key: str
    version: str
    provenance: Provenance = Provenance()


def parse(model: type[Any], value: Any, where: str) -> Any:
    """Validate ``value`` as ``model`` and turn pydantic's report into one sentence.

    :param where: what is being read, for the message
    :raises SpecError: naming each field that is wrong
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        )
        raise SpecError(f"{where} cannot run as it is configured: {problems}.") from None
