"""A field that a JSON object has twice is refused, however it is written."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.serving.http import messages
from airflow_mlops.serving.http.messages import (
    COMPLETE,
    json_answer,
    json_object,
    read_body,
    request_id_of,
)
from airflow_mlops.serving.refusals import RefusedError

VALUES = st.recursive(
    st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**60), 2**60)
    | st.text('":\\a ', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('":\\ab ', max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["rows", "inputs", "outputs", "parameters", "id"]), VALUES), st.booleans())
def test_an_object_with_each_field_once_is_read_unchanged(body, spaced):
    separators = (" , ", "\t :\n") if spaced else None
    assert json_object(json.dumps(body, separators=separators).encode()) == body


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"rows": [{"a": 1, "b": 2, "a": 3}]}', "a"),
        ('{"rows": [{"a" : 1, "a":3}]}', "a"),
        ('{"rows": [], "rows": [{"a": 1}]}', "rows"),
        # Written in two ways, nested, and with colons in texts.
        ('{"rows": [{"a": 1, "\\u0061": 3}]}', "a"),
        ('{"rows": [{"a": {"deep": 1, "deep": 2}}]}', "deep"),
        ('{"rows": [{"at": "10:00:00", "a": "\\":", "at": "11:00"}]}', "at"),
        (
            '{"inputs": [{"name": "a", "parameters": {"binary_data_size": 3, "binary_data_size": 4}}]}',
            "binary_data_size",
        ),
    ],
)
def test_a_repeated_field_is_refused_by_its_name(text, name):
    with pytest.raises(SchemaError, match=f"the field '{name}' twice"):
        json_object(text.encode())


def test_usual_requests_are_parsed_once(monkeypatch):
    monkeypatch.setattr(messages.json, "loads", lambda *_, **__: pytest.fail("It was parsed again."))
    rows = [{"a": 1.5, "at": "2026-01-01T10:00:00", "b": "x"}] * 3
    json_object(json.dumps({"id": "a:b", "rows": rows, "log": False}).encode())
    inputs = [{"name": "a", "shape": [1], "datatype": "FP64", "parameters": {"binary_data_size": 8}}]
    outputs = [{"name": "score", "parameters": {"binary_data": True}}]
    json_object(json.dumps({"inputs": inputs, "outputs": outputs, "parameters": {"x": 1}}, indent=1).encode())


def test_numbers_that_json_lacks_are_null_in_an_answer():
    # For example, a linear model returns such a score if a feature is infinite in single precision.
    answer = json_answer({"score": [0.5, float("nan"), float("inf"), -float("inf")]})
    assert answer.body == b'{"score":[0.5,null,null,null]}'


@pytest.mark.parametrize("given", [0, False, 5, [], {}, ["a"], "x" * 201])
def test_an_id_that_is_not_text_is_refused(given):
    with pytest.raises(SchemaError, match="id of the request"):
        request_id_of(SimpleNamespace(scope={"headers": []}), {"id": given})


def test_the_id_of_the_body_comes_before_that_of_the_header():
    request = SimpleNamespace(
        scope={"headers": [(b"host", b"h"), (b"x-request-id", b"seven"), (b"x-request-id", b"8")]}
    )
    assert request_id_of(request, {"id": "nine"}) == "nine"
    assert {request_id_of(request, body) for body in ({}, {"id": None}, {"id": ""})} == {"seven"}
    assert len(request_id_of(SimpleNamespace(scope={"headers": []}), {})) == 32


def test_the_limit_of_a_body_also_applies_to_a_request_that_has_arrived():
    async def receive():
        return {"type": "http.request", "body": b"12345"}

    request = Request({"type": "http", "headers": [], COMPLETE: True}, receive)
    assert asyncio.run(read_body(request, 5, 0.0)) == b"12345"
    with pytest.raises(RefusedError) as refused:
        asyncio.run(read_body(request, 4, 0.0))
    assert refused.value.status == 413
