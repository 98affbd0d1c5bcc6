"""What only people can say about a model, for its card."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Card(Model):
    """Plain text; what is left out is left out of the card.

    :param purpose: what the model is for
    :param limits: what it must not be used for, or where it is known to fail; one text or several
    :param owner: who is responsible for it
    """

    purpose: str = ""
    limits: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list)
    owner: str = ""
