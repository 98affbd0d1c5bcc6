"""What a person states about a model for its card."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Card(Model):
    """Plain text; empty fields do not appear on the card.

    :param purpose: the intended use
    :param limits: uses that are out of scope, and known failures; one text or several
    :param owner: who is responsible for the model
    """

    purpose: str = ""
    limits: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list)
    owner: str = ""
