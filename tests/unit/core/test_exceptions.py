"""How errors of other libraries are told inside ours."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_mlops.core.errors import one_line


@given(st.text(), st.none() | st.integers(0, 50))
@example("a\n  b...", None)
@example(". . .", 3)
def test_an_error_becomes_a_part_of_a_sentence(text, most):
    said = one_line(ValueError(text), most)
    assert said.startswith("ValueError")
    assert not said.endswith((".", " "))
    assert said.splitlines() == [said]
    assert most is None or len(said) <= len("ValueError: ") + most


def test_it_says_what_the_error_says():
    assert one_line(KeyError("a b")) == "KeyError: 'a b'"
    assert one_line(ValueError("no\n  such thing.")) == "ValueError: no such thing"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("abcdef"), 3) == "ValueError: abc"


def test_a_syntax_error_is_told_without_its_place():
    with pytest.raises(SyntaxError) as caught:
        compile("x = (", "features.py", "exec")
    assert one_line(caught.value) == "SyntaxError: '(' was never closed"
