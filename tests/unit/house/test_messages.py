"""Errors say what is wrong and what to do in two sentences, not in one with a colon."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

COMPUTE = Path(__file__).parents[3] / "airflow_mlops" / "compute"
REMEDY = re.compile(
    r": (add|check|choose|clear|correct|create|delete|give|grant|increase|install|look|name|remove|restore|set|store|use|write)\b"
)


def messages(tree: ast.AST):
    """The texts of a module, except docstrings. Values in f-strings are written as {}."""
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Constant))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in texts:
        if id(node) in docs | inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", sorted(COMPUTE.rglob("*.py")), ids=lambda path: str(path.relative_to(COMPUTE)))
def test_no_message_joins_problem_and_remedy_by_a_colon(path):
    assert [text for text in messages(ast.parse(path.read_text())) if REMEDY.search(text)] == []
