"""Invalid parameters are named with their values and with what they should be."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import pytest
from pydantic import Field

from airflow_mlops.core.base import Model, parse
from airflow_mlops.core.errors import SpecError


class Inner(Model):
    size: Literal["window"] | float | timedelta = 1.0
    first: int = 0
    second: float = 0


class Known(Model):
    kind: Literal["known"] = "known"
    first: str = ""
    second: dict[str, int] = {}


class Other(Model):
    kind: Literal["other"] = "other"


class Outer(Model):
    tagged: Annotated[Known | Other, Field(discriminator="kind")] = Known()
    inner: Inner = Inner()
    numbers: list[float | bool] = []
    name: str | None = None


def problems(**values):
    with pytest.raises(SpecError) as caught:
        parse(Outer, values, "Task 'a'")
    start = "Task 'a' cannot run as it is configured: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start).rstrip(".").split("; ")


def test_a_value_with_several_types_is_one_problem():
    assert problems(inner={"size": "abc"}) == ["inner.size: 'abc' is none of: 'window', a number, a duration"]
    assert problems(inner={"size": [1]}) == ["inner.size: [1] is none of: 'window', a number, a duration"]
    assert problems(numbers=[1, "x"]) == ["numbers.1: 'x' is none of: a number, a boolean"]


def test_a_long_value_is_cut():
    (problem,) = problems(inner={"size": ["abc"] * 1_000})
    assert problem.startswith("inner.size: ['abc', 'abc'")
    assert len(problem) < 200


def test_different_fields_with_the_same_value_stay_different_problems():
    found = problems(inner={"first": "abc", "second": "abc"})
    assert [problem.partition(": ")[0] for problem in found] == ["inner.first", "inner.second"]
    assert all("number" in problem or "integer" in problem for problem in found)
    assert len(problems(numbers=["x", "x"])) == 2


def test_different_fields_that_are_null_stay_different_problems():
    # The location contains the kind, which is no key of the value.
    found = problems(tagged={"kind": "known", "first": None, "second": None})
    assert [problem.partition(": ")[0] for problem in found] == ["tagged.known.first", "tagged.known.second"]


def test_a_value_of_one_type_and_unknown_fields_are_named():
    (problem,) = problems(name=3)
    assert problem.startswith("name: ")
    assert {problem.partition(": ")[0] for problem in problems(inner={"size": "abc", "sise": 1}, b=2)} == {
        "inner.size",
        "inner.sise",
        "b",
    }
