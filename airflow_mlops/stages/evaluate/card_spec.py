"""The texts on a model card that a person writes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Card(Model):
    """The texts of a model card, as plain text. Empty fields do not appear on the card.

    :param purpose: the intended use of the model
    :param limits: uses that are out of scope, and known failures; one text or a list of texts
    :param owner: person or team that is responsible for the model
    """

    purpose: str = ""
    limits: Annotated[list[str], BeforeValidator(_as_list)] = Field(default_factory=list)
    owner: str = ""
