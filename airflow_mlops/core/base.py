"""The base class of all pydantic models of this package, and the parsing of user input."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from airflow_mlops.core.errors import SpecError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Model(BaseModel):
    """A frozen pydantic model that does not allow unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def choices(name: Any, known: Iterable[str]) -> str:
    """The end of an error message about an unknown ``name``: the valid names, and the one with the nearest spelling."""
    options = list(known)
    near = get_close_matches(str(name).lower(), options, n=1, cutoff=0.5)
    return f"choose one of {', '.join(options)}{f' (did you mean {near[0]!r}?)' if near else ''}"


def parse(model: type[Any], value: Any, where: str) -> Any:
    """Validate ``value`` as ``model``.

    :param where: name of the value in the error message, such as ``Task 'train'``
    :raises SpecError: ``value`` is invalid; the message names each invalid field
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
