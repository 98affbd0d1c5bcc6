"""Some cases of the fuzzer. CI runs the same in every run."""

from __future__ import annotations

import os
import random

import pytest

from tests.fuzz import fuzz
from tests.support.damaged import Case, case, disagreement


def test_damaged_files_are_read_exactly_or_refused():
    seed = 0 if os.environ.get("CI") else random.randrange(1 << 32)
    findings = fuzz(seed, iter(range(300)))
    assert findings.failures == {}, f"python -m tests.fuzz --seed {seed} --case {next(iter(findings.failures))}"
    assert findings.outcomes.total() == 300
    assert findings.outcomes["read and compared"] > 0


def test_a_case_is_the_same_in_every_run(monkeypatch):
    first = [case(7, number) for number in range(50)]
    monkeypatch.setattr("time.time", lambda: 1.0)
    assert [case(7, number) for number in range(50)] == first
    assert case(7, 1) != case(8, 1)


@pytest.mark.parametrize(
    ("content", "right", "wrong"),
    [
        (b'a,b\n1,"x\ny"\n', {"a": "1", "b": "x\ny"}, {"a": "1", "b": "x"}),
        (b"a,b\n,2\n", {"a": None, "b": "2"}, {"a": "2", "b": None}),
    ],
)
def test_a_wrong_value_of_a_csv_file_is_found(content, right, wrong):
    found = Case("file.csv", content, content, is_comparable=True)
    assert disagreement(found, [right]) is None
    assert disagreement(found, [wrong])
    assert disagreement(found, [right, right])


@pytest.mark.parametrize(
    ("content", "right", "wrong"),
    [
        (b'{"a": 1, "b": {}}', {"a": 1.0, "b": None}, {"a": True, "b": None}),
        (b'{"a": [NaN, {"x": null}]}', {"a": [float("nan"), {"x": None, "y": None}]}, {"a": [float("nan")]}),
        (b'{"a": 12345678901234567890}', {"a": 12345678901234567890}, {"a": 12345678901234567000}),
    ],
)
def test_a_wrong_value_of_a_json_file_is_found(content, right, wrong):
    found = Case("file.jsonl", content, content, is_comparable=True)
    assert disagreement(found, [right]) is None
    assert disagreement(found, [wrong])
