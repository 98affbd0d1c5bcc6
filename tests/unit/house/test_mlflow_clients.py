"""Tests do not depend on the MLflow server that another test connected to."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_tests_give_the_registry_of_mlflow_clients():
    """``connect`` sets MLflow's defaults for the process. A client that gets only a tracking URI uses the default registry."""
    found = [
        f"{file.relative_to(TESTS)}:{node.lineno}"
        for file in TESTS.rglob("*.py")
        if "MlflowClient(" in (text := file.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] == "MlflowClient"
        and len(node.args) + len(node.keywords) == 1
    ]
    assert found == []
