"""A step that takes a verdict takes the output of an evaluation, which may be mapped over shards."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from airflow_mlops.registry.records.verdict import VerdictInput

VERDICT = {
    "model": "delays", "winner": None, "champion": None, "reason": "No candidate passed.", "part": "test",
    "metric": "roc_auc", "dataset_name": "rows", "dataset_id": "a" * 64, "candidates": [],
}  # fmt: skip
SHARD, LAST = {"verdict": None, "shard": 0}, {"verdict": VERDICT, "shard": 1}


@pytest.mark.parametrize(
    "given", [VERDICT, LAST, [LAST], [SHARD, LAST, SHARD], (None, LAST), [VERDICT], [SHARD, VERDICT]]
)
def test_the_verdict_is_found(given):
    assert TypeAdapter(VerdictInput).validate_python(given).model == "delays"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (SHARD, "result of one shard"),
        ([LAST, VERDICT], "takes one verdict, but 2 are given"),
        ([SHARD, SHARD], "No verdict is given"),
        ([None], "No verdict is given"),
        ([], "No verdict is given"),
    ],
)
def test_other_numbers_of_verdicts_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(VerdictInput).validate_python(given)
