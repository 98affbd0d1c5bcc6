"""Information about the data from the user: the arguments of ``airflow mlops init``, and answers to questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol

from airflow_mlops.core.zones import UTC

if TYPE_CHECKING:
    from collections.abc import Sequence

Every = Literal["day", "week", "month"]


class Person(Protocol):
    """Answers the questions that the data leaves open, such as which column is the label."""

    def choose(self, flag: str, question: str, options: Sequence[str]) -> str:
        """Return one of ``options``.

        :param flag: the argument of the command with which the user can give the same answer
        :param question: the question
        :param options: the possible answers
        """

    def choose_several(self, flag: str, question: str, options: Sequence[str]) -> list[str]:
        """Return some of ``options``, see :meth:`choose`."""

    def duration(self, flag: str, question: str) -> timedelta:
        """Return a duration, which may be zero, see :meth:`choose`."""

    def confirm(self, question: str) -> bool:
        """Return the answer to a question with yes or no; ``False`` if nobody can be asked."""


@dataclass(frozen=True)
class Given:
    """The arguments of ``airflow mlops init``; ``None`` or empty if an argument was not given."""

    label: str | None = None
    time: str | None = None
    keys: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    label_delay: timedelta | None = None
    every: Every | None = None
    positive: str | None = None
    timezone: str = UTC
