"""Connections from the environment are parsed as Airflow parses them, and do not reveal their secrets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.calls import Spec
from airflow_mlops.core.connections import ConnectionInfo, environment_name, from_environment, to_json
from airflow_mlops.core.errors import ConnectionNotFoundError, SpecError


def airflow_reads(text: str) -> ConnectionInfo:
    """The connection as Airflow itself parses the text."""
    from airflow.sdk import Connection

    found = Connection.from_json(text, conn_id="c") if text.startswith("{") else Connection.from_uri(text, conn_id="c")
    return ConnectionInfo(
        conn_id="c",
        conn_type=found.conn_type,
        host=found.host,
        login=found.login,
        password=found.password,
        schema=found.schema,
        port=found.port,
        extra=found.extra_dejson,
    )


@pytest.mark.parametrize(
    "text",
    [
        "postgres://me:p%40ss@db.example:5432/flights?sslmode=require",
        "postgresql://me@db.example/flights",
        "sqlite:////var/lib/flights.db",
        "mlflow://user:pw@tracking.example:443",
        "google-cloud-platform://?__extra__=%7B%22project%22%3A%20%22p%22%7D",
        json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:5000", "extra": {"a": 1}}),
        json.dumps({"conn_type": "postgres", "login": "me", "password": "pw", "extra": '{"sslmode": "require"}'}),
    ],
)
def test_text_is_parsed_as_airflow_parses_it(text, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_C", text)
    assert from_environment("c") == airflow_reads(text)


texts = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1)


@given(host=texts, login=texts, password=texts, schema=texts, port=st.none() | st.integers(1, 65535))
def test_a_connection_is_equal_after_a_round_trip_through_the_environment(host, login, password, schema, port):
    sent = ConnectionInfo(
        conn_id="c", conn_type="postgres", host=host, login=login, password=password, schema=schema, port=port
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(environment_name("c"), to_json(sent))
        assert from_environment("c") == sent


def test_the_error_for_a_missing_connection_names_the_variable(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_NOWHERE", raising=False)
    with pytest.raises(ConnectionNotFoundError, match="'nowhere'.*AIRFLOW_CONN_NOWHERE"):
        from_environment("nowhere")


@pytest.mark.parametrize("text", ["{secret", "just-a-secret", "pg://me:secret@host:notaport/x"])
def test_invalid_text_is_refused_and_not_shown(text, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_BAD", text)
    with pytest.raises(SpecError, match="AIRFLOW_CONN_BAD") as caught:
        from_environment("bad")
    assert "secret" not in str(caught.value)


def test_the_repr_of_a_connection_contains_no_secret():
    info = ConnectionInfo(conn_id="c", conn_type="postgres", password="hunter2", extra={"token": "hunter3"})
    assert "hunter" not in repr(info)
    assert "hunter" not in str(info)


def test_a_spec_lists_all_connections_in_its_fields():
    class Inner(Spec):
        conn_id: str = "inner"

    class Outer(Spec):
        source_conn_id: str | None = "outer"
        other_conn_id: str | None = None
        parts: list[Inner] = [Inner(), Inner(conn_id="second")]

    assert Outer().connections() == {"outer", "inner", "second"}
