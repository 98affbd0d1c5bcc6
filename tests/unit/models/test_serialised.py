"""The same training has an export of the same bytes in every process. With other bytes, it would be another version."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import onnx

from airflow_mlops.models.onnx.serialised import serialised


def test_exports_have_the_same_bytes_in_two_processes():
    # The value decides the order of Python's sets.
    command = [sys.executable, "-m", "tests.support.exports"]
    running = [
        subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True)
        for seed in ("0", "1")
    ]
    first, second = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    assert len(first) == len(set(first.values())) == 12
    assert first == second


def test_operator_sets_are_in_the_order_of_their_domains():
    graph = onnx.helper.make_graph([], "g", [], [])
    given = [onnx.helper.make_opsetid(*item) for item in (("ai.onnx.ml", 1), ("com.microsoft", 1), ("", 18))]
    model = onnx.helper.make_model(graph, opset_imports=given)
    found = onnx.load_from_string(serialised(model))
    assert [(item.domain, item.version) for item in found.opset_import] == [
        ("", 18),
        ("ai.onnx.ml", 1),
        ("com.microsoft", 1),
    ]
