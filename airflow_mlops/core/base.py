"""The base class of this package's pydantic models, and validation of user input with readable errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from airflow_mlops.core.errors import SpecError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Model(BaseModel):
    """A frozen pydantic model that does not allow unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def choices(name: Any, known: Iterable[str]) -> str:
    """Return a clause for an error message, such as ``choose one of auc, f1 (did you mean 'f1'?)``.

    The suggestion is the valid name most similar to ``name``. It is left out if no valid name is similar.

    :param name: the unknown name that the user wrote
    :param known: the valid names
    """
    options = list(known)
    near = get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    return f"choose one of {', '.join(options)}{f' (did you mean {near[0]!r}?)' if near else ''}"


# A marker for a location without a value. None cannot be the marker, because it is a possible value.
_NOTHING = object()
# Maximum number of characters of a wrong value that a message shows.
_MOST_SHOWN = 80


def parse(model: type[Any], value: Any, where: str, **context: Any) -> Any:
    """Validate ``value`` and return it as an instance of ``model``.

    Infinite numbers and NaN are refused everywhere in ``value``. Specs and trainings are stored and sent as JSON, which
    has no such numbers. pydantic would write null.

    :param model: the pydantic model
    :param value: the value to validate
    :param where: what is being configured, such as ``Task 'train'``; the error message starts with it
    :param context: pydantic's validation context, such as the ``calendar`` of a DAG run
    :raises SpecError: ``value`` is invalid. The message names each invalid field
    """
    from pydantic import ValidationError

    for at, number in _not_finite(value):
        name = "NaN" if math.isnan(number) else "infinite, or too large for a double"
        raise SpecError(f"{where} cannot run as it is configured: {'.'.join(at)} is {name}. Use a finite number.")
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        problems = "; ".join(
            ": ".join(filter(None, [".".join(map(str, at)), message]))
            for at, message in _problems(value, error.errors())
        )
        raise SpecError(f"{where} cannot run as it is configured: {problems}.") from None


def _not_finite(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the location and the value of each number in ``value`` that is infinite or NaN."""
    if isinstance(value, float):
        if not math.isfinite(value):
            yield at or ("the value",), value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _not_finite(item, (*at, str(number)))


def _problems(value: Any, errors: Sequence[Any]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the location and the message of each problem.

    If a value has none of its allowed types, pydantic reports one error for each type. These errors are combined into
    one problem.

    :param value: the validated value
    :param errors: pydantic's errors. If several types are allowed for a value, the location of an error ends with the
        type
    """
    for location, group in groupby(errors, key=lambda item: item["loc"][:-1]):
        same = list(group)
        kinds = [_kind(item["msg"]) for item in same]
        found = _at(value, location)
        if len(same) > 1 and all(kinds) and all(item["input"] is found for item in same):
            yield location, f"{_shown(found)} is none of: {', '.join(filter(None, kinds))}"
        else:
            yield from ((item["loc"], _message(item).removeprefix("Value error, ").rstrip(".")) for item in same)


def _at(value: Any, location: Sequence[Any]) -> Any:
    """Return the value at a location; :data:`_NOTHING` if there is none, such as at the name of a type."""
    for part in location:
        try:
            value = value[part]
        except (TypeError, KeyError, IndexError):
            return _NOTHING
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _kind(message: str) -> str | None:
    """Return the expected kind of value from pydantic's message, such as ``a number``.

    :return: ``None`` if the message does not name a kind
    """
    start = "Input should be "
    if not message.startswith(start):
        return None
    return message.removeprefix(start).partition(", ")[0].replace("a valid ", "a ").replace("timedelta", "duration")


def _message(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
        return f"{error['input']!r} is not a name. Use letters, digits, '_', '-' and '.', and begin with a letter or a digit."
    return str(error["msg"])
