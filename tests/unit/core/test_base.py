"""Invalid parameters are named with their values and with what they should be."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated, Literal

import pytest
from pydantic import Field

from airflow_mlops.core import strict_json
from airflow_mlops.core.base import Model, parse
from airflow_mlops.core.errors import SpecError, StoreError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.gates.bounds import Bound
from airflow_mlops.operators.rendering import _from_text
from airflow_mlops.stages.train.spec import TrainSpec
from airflow_mlops.stages.validate.suites import read_json


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
    # The location of a problem contains the tag `known`, which is not a key of the value.
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


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1e308 * 10])
def test_numbers_that_json_does_not_have_are_refused_wherever_they_are(number):
    ridge = {"estimator": "sklearn.linear_model.Ridge", "params": {"steps": [{"alpha": number}]}}
    with pytest.raises(SpecError, match=r"trainer\.params\.steps\.0\.alpha is (infinite|NaN)"):
        parse(TrainSpec, {"model": "m", "trainer": ridge}, "Task 'train'")


def test_a_number_that_is_too_large_in_a_template_is_refused():
    # Rendered parameters become numbers.
    number = _from_text("1e400")
    with pytest.raises(SpecError, match="max is infinite"):
        parse(Bound, {"metric": "roc_auc", "max": number}, "The gate")


@pytest.mark.parametrize("text", ["1e400", "-1e400", "NaN", "Infinity", '{"a": [1, -Infinity]}'])
def test_text_that_python_reads_but_that_is_not_valid_json_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="JSON number|too large"):
        strict_json.loads(text)
    store = ArtifactStore(f"file://{tmp_path}")
    store.write_bytes("a.json", text.encode())
    with pytest.raises(StoreError, match=r"a\.json"):
        store.read_json("a.json")
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(SpecError, match="not valid JSON"):
        read_json(str(tmp_path / "suite.json"))


def test_numbers_of_strict_json_are_those_of_json():
    text = '{"a": 1e308, "b": -0.5, "c": 123456789012345678901234567890, "d": 5e-324}'
    assert strict_json.loads(text) == json.loads(text)
