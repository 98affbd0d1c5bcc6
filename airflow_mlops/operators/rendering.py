"""Rendering of template fields: expressions keep their types, and missing values of the DAG run are errors.

Jinja renders text. Two rules are added to Airflow's rendering, unless the DAG sets ``render_template_as_native_obj``:

- If a value is exactly one expression, such as ``"{{ params.columns }}"``, a result that is a list or a dict keeps its
  type, and null stays null. In structured parameters (gates, policies, trainers), a number and a boolean keep their types,
  too.
- In the free-form ``params`` of a trainer, text from a template becomes a number, a boolean or null if the text is
  written like one. Airflow Variables are always text. Text without a template is never converted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.nativetypes
from airflow.sdk import XComArg
from airflow.sdk.definitions.param import DagParam

from airflow_mlops.core.errors import SpecError, one_line
from airflow_mlops.core.secrets import url_credentials

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.sdk import Context

_EXPRESSION = re.compile(r"\{\{[-+]?(.*?)[-+]?\}\}", re.DOTALL)
# Keys in structured parameters below which the values can have any type.
_FREE_FORM = frozenset({"params", "dataset_params", "choices"})
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_INTERVAL = re.compile(r"\{\{[^{}]*\bdata_interval_start\b[^{}]*\}\}/\{\{[^{}]*\bdata_interval_end\b[^{}]*\}\}")
# Template variables that a run has only if it has a logical date.
_OF_LOGICAL_DATE = re.compile(r"'(logical_date|ds|ds_nodash|ts|ts_\w+|(prev_)?data_interval_\w+)' is undefined")


def is_template(value: Any) -> bool:
    """Return whether ``value`` is known only at run time: it contains a template, a task output or a DAG parameter."""
    return "{{" in (text := str(value)) or "{%" in text or _is_reference(value)


def is_known_text(value: Any) -> bool:
    """Return whether ``value`` is text that is known while the DAG is parsed."""
    return isinstance(value, str) and not is_template(value)


def _is_reference(value: Any) -> bool:
    # The text of a task output, str(output), is a template. The text of a list or dict with a task output is not a
    # template, and the text of ``dag.param()`` is not a template either.
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(_is_reference, value))
    return isinstance(value, (XComArg, DagParam))


class Expression:
    """A template that keeps the type of its value, instead of being rendered to text.

    :param text: the template
    :param environment: the Jinja environment of the task
    :param scalars: whether a number or a boolean keeps its type. Null always keeps its type
    :param free: whether text that is written like a number, a boolean or null is converted to that type
    """

    def __init__(self, text: str, environment: jinja2.Environment, *, scalars: bool, free: bool) -> None:
        self.text = text
        self.environment = environment
        self.scalars = scalars
        self.free = free

    def resolve(self, context: Mapping[str, Any]) -> Any:
        """Return the value of the template. Airflow calls this method when it renders the fields of a task."""
        value = self._value(context)
        if isinstance(value, (list, tuple, Mapping)) or (isinstance(value, Sequence) and not isinstance(value, str)):
            return value
        # As text, null would be rendered as the word ``None``.
        if value is None or (self.scalars and isinstance(value, (bool, int, float))):
            return value
        text = str(value)
        return _from_text(text) if self.free else text

    def _value(self, context: Mapping[str, Any]) -> Any:
        expression = _single_expression(self.text, self.environment)
        if expression is None:
            return self.environment.from_string(self.text).render(context)
        return self.environment.compile_expression(expression, undefined_to_none=False)(context)


def _single_expression(text: str, environment: jinja2.Environment) -> str | None:
    """Return the expression of a template that is exactly one expression in double braces.

    Return ``None`` for any other text.
    """
    found = _EXPRESSION.fullmatch(text.strip())
    if found is None:
        return None
    body = environment.parse(text.strip()).body
    if len(body) != 1 or not isinstance(body[0], jinja2.nodes.Output) or len(body[0].nodes) != 1:
        return None
    return None if isinstance(body[0].nodes[0], jinja2.nodes.TemplateData) else found[1]


def _from_text(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return json.loads(text) if _NUMBER.fullmatch(text) else text


def with_expressions(
    value: Any, environment: jinja2.Environment, done: Collection[int], *, structured: bool, free: bool = False
) -> Any:
    """Replace each template in ``value`` whose result keeps its type with an :class:`Expression`.

    :param done: ids of values that must not be rendered, because they come from XCom
    :param structured: whether the value is a structured parameter, in which numbers and booleans keep their types
    :param free: whether the value is below a free-form key
    """
    if id(value) in done or isinstance(environment, jinja2.nativetypes.NativeEnvironment):
        return value
    if isinstance(value, str) and is_template(value):
        single = _EXPRESSION.fullmatch(value.strip()) is not None
        return Expression(value, environment, scalars=structured, free=free) if single or free else value
    if not structured:
        return value
    if isinstance(value, dict):
        return {
            key: with_expressions(item, environment, done, structured=True, free=free or key in _FREE_FORM)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [with_expressions(item, environment, done, structured=True, free=free) for item in value]
    return value


REQUEST = "mlops_request"
"""Name of the template variable with the request for retraining that started the DAG run."""


class Missing(jinja2.StrictUndefined):
    """Placeholder in templates for a value that the DAG run does not have, such as a partition key.

    The placeholder is false and equals ``none``. Any other use raises an error. Airflow's ``None`` would be rendered as
    the text ``None``, for example into a file name or a query.
    """

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, Missing)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(None)


class MissingRequest(Missing):
    """Placeholder for the request for retraining, in a run that no request started. All its fields are missing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def with_missing(context: Context, environment: jinja2.Environment) -> Context:
    """Return the context for rendering, with placeholders for values that the run does not have.

    A missing partition key, partition date or request for retraining is replaced by a :class:`Missing`.

    :param context: the context, with the request for retraining, or ``None``, under the name :data:`REQUEST`
    """
    absent = [name for name in ("partition_key", "partition_date") if context.get(name) is None]
    requested = context.get(REQUEST) is not None
    if not absent and requested:
        return context
    environment.tests["none"] = lambda value: value is None or isinstance(value, Missing)
    what = (
        "this run has no partition key. Trigger the DAG with a partition key, or write a default for runs without one, such "
        "as {{ partition_key or params.window }}"
    )
    missing: dict[str, Missing] = {name: Missing(hint=what, name=name) for name in absent}
    if not requested:
        hint = (
            "no request for retraining started this run. Write a default for such runs, such as "
            f"{{{{ {REQUEST}.window or params.window }}}}"
        )
        missing[REQUEST] = MissingRequest(hint=hint, name=REQUEST)
    return {**context, **missing}  # type: ignore[typeddict-item]


def defined(value: Any) -> Any:
    """Return ``value`` if it is defined. Jinja's native rendering returns an undefined value instead of an error.

    :raises jinja2.UndefinedError: ``value`` is undefined
    """
    if isinstance(value, jinja2.Undefined):
        str(value)
    return value


def mask_credentials(value: Any) -> None:
    """Register the credentials in the URLs of a rendered field as secrets, which Airflow masks in logs and pages."""
    if isinstance(value, str):
        if "://" in value:
            from airflow.sdk.log import mask_secret

            for credential in url_credentials(value):
                mask_secret(credential)
    elif isinstance(value, Mapping):
        for item in value.values():
            mask_credentials(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            mask_credentials(item)


def check_interval(value: Any, context: Context) -> None:
    """Check that a window from the start to the end of the run's data interval is not empty.

    :raises SpecError: ``value`` contains the template ``START/END`` of the data interval, and the data interval is
        empty
    """
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    if start is not None and start == end and _INTERVAL.search(str(value)):
        raise SpecError(
            "the data interval of this run is empty, because in Airflow 3 a cron schedule such as '@daily' is a point in "
            "time. Use schedule=CronDataIntervalTimetable(...), or a window such as {{ macros.ds_add(ds, -1) }} for the day "
            "before."
        )


@contextmanager
def template_errors(where: str) -> Iterator[None]:
    """Convert exceptions of Jinja to errors that name the task and the parameter.

    :param where: start of the message, such as ``Task 'ingest', window=``
    :raises SpecError: a template is invalid, or refers to a value that does not exist
    """
    try:
        yield
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    except jinja2.TemplateSyntaxError as error:
        raise SpecError(f"{where}: the template is not valid Jinja: {error.message}, line {error.lineno}.") from None
    except jinja2.TemplateNotFound as error:
        raise SpecError(
            f"{where}: the file {error.name!r}, which the template includes, does not exist. Correct the path. It is relative "
            "to the folder of the DAG file or to the template_searchpath of the DAG."
        ) from None
    except jinja2.UndefinedError as error:
        why = ""
        if _OF_LOGICAL_DATE.search(str(error)):
            why = (
                ". This run has no logical date, because a person, an asset or a partition started it. Use "
                "{{ partition_key }} in a DAG with partitions, or a DAG parameter such as {{ params.window }}"
            )
        raise SpecError(f"{where}: {error}{why}.") from None
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise SpecError(f"{where}: the template fails with {one_line(error)}. Correct the template.") from None
