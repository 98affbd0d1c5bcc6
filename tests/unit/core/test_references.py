"""A dataset is given as a reference, as the result of a task, or by its name, alone or several at once."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.references import DatasetInput, DatasetLike, OptionalDatasetLike, names

REF = {"name": "rows", "id": "a" * 64, "rows": 3, "window": "2013-04"}
MAY = {**REF, "id": "b" * 64, "window": "2013-05"}


class Many(BaseModel):
    dataset: DatasetLike


class One(BaseModel):
    dataset: DatasetInput


class Optional(BaseModel):
    dataset: OptionalDatasetLike = None


@pytest.mark.parametrize("model", [Many, One, Optional])
@pytest.mark.parametrize(
    "value",
    [
        REF,
        {"dataset": REF, "summary": "the result of a step"},
        [{"dataset": REF}, None],
        {"name": "rows", "window": "2013-04"},
        {"name": "rows", "window": "2013-04", "gaps": "allow", "time_column": "t"},
        {"name": "rows", "at": "2013-04-01T06:00+02:00"},
        "rows",
    ],
)
def test_each_form_of_one_dataset_is_taken_and_is_the_same_after_a_round_trip(model: Any, value):
    made = model(dataset=value)
    assert names(made.dataset) == ["rows"]
    assert model.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("model", [Many, Optional])
def test_the_output_of_a_mapped_task_is_several_datasets(model: Any):
    made = model(dataset=[{"dataset": REF}, {"dataset": MAY}, {"dataset": None}, None])
    assert [item.id[0] for item in made.dataset] == ["a", "b"]
    assert model.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize("value", [None, "", [], [None], {"dataset": None}])
def test_an_optional_dataset_may_be_absent(value):
    assert Optional(dataset=value).dataset is None


@pytest.mark.parametrize(
    ("model", "value", "says"),
    [
        (One, [{"dataset": REF}, {"dataset": MAY}], "expand"),
        (One, [None], "skipped"),
        (Many, [], "at least 1"),
        (Many, {"name": "rows", "window": "2013-04", "at": "2013"}, "`at` and `window` are both set"),
        (Many, {"name": "rows", "gaps": "some"}, "gaps"),
        (Many, "{'name': 'rows'}", "name"),
    ],
)
def test_an_invalid_dataset_is_refused(model, value, says):
    with pytest.raises(SpecError, match=says):
        parse(model, {"dataset": value}, "Task 'x'")


def test_an_error_names_only_the_form_that_was_meant():
    with pytest.raises(SpecError) as error:
        parse(Many, {"dataset": {"name": "rows", "window": "soon"}}, "Task 'x'")
    assert "'soon' is not a time window" in str(error.value)
    assert "id" not in str(error.value).split("window", 1)[0]


def test_fields_that_are_not_set_are_not_part_of_the_spec():
    assert Many(dataset={"name": "rows"}).model_dump(mode="json") == {"dataset": {"name": "rows", "window": None}}
