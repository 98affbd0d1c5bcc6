"""The errors of this package, and the errors of other libraries in their messages."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_mlops.core.errors import (
    ComputeError,
    ImageError,
    MemoryLimitError,
    MLOpsError,
    SpecError,
    by_name,
    one_line,
)


@given(st.text(), st.none() | st.integers(0, 50))
@example("a\n  b...", None)
@example(". . .", 3)
def test_one_line_can_stand_inside_a_sentence(text, most):
    line = one_line(ValueError(text), most)
    assert line.startswith("ValueError")
    assert not line.endswith((".", " "))
    assert line.splitlines() == [line]
    assert most is None or len(line) <= len("ValueError: ") + most


def test_one_line_has_the_class_and_the_message():
    assert one_line(KeyError("a b")) == "KeyError: 'a b'"
    assert one_line(ValueError("no\n  such thing.")) == "ValueError: no such thing"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("abcdef"), 3) == "ValueError: abc"


def test_one_line_of_a_syntax_error_has_no_position():
    with pytest.raises(SyntaxError) as caught:
        compile("x = (", "features.py", "exec")
    assert one_line(caught.value) == "SyntaxError: '(' was never closed"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SpecError", SpecError), ("ImageError", ImageError), ("KeyError", MLOpsError), ("by_name", MLOpsError)],
)
def test_an_error_class_is_found_by_its_name(name, expected):
    assert by_name(name) is expected


def test_only_some_errors_are_retryable():
    assert ComputeError.retryable
    assert not ImageError.retryable
    assert not SpecError.retryable
    assert MemoryLimitError("out of memory", grows=True).retryable
    assert not MemoryLimitError("out of memory").retryable
