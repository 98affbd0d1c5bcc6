"""Connections from the environment are parsed as Airflow parses them, and do not reveal their secrets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.calls import Spec
from airflow_mlops.core.connections import ConnectionInfo, environment_name, from_environment, sqlalchemy_url, to_json
from airflow_mlops.core.errors import ConnectionNotFoundError, SpecError


def airflow_reads(text: str) -> ConnectionInfo:
    """The connection as Airflow itself parses the text."""
    from airflow.sdk import Connection

    text = text.strip()
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
        "mlflow://https%3A%2F%2Fmlflow.example",
        "mlflow://https%3A%2F%2FMlflow.example%2FTracking:5000",
        "mlflow://https://mlflow.example",
        "mlflow://https://me:p%40ss%3A@mlflow.example%3A5000",
        "mlflow://https://mlflow.example:5000/tracking?ui_url=https%3A%2F%2Fml.example",
        "mlflow://sqlite://%2F%2Fsrv%2Fmlflow.db",
        "mlflow://databricks",
        "mlflow://:token@mlflow.example",
        "  postgres://me@db.example/flights\n",
        "my-postgresql://db.example",
        "postgres://[::1]:5432/flights",
        "spark://yarn?deploy-mode=&queue=root.x",
        "google-cloud-platform://?__extra__=%7B%22project%22%3A%20%22p%22%7D",
        json.dumps({"conn_type": "mlflow", "host": "http://127.0.0.1:5000", "extra": {"a": 1}}),
        json.dumps({"conn_type": "postgres", "login": "me", "password": "pw", "extra": '{"sslmode": "require"}'}),
        json.dumps({"conn_type": "google-cloud-platform", "port": "443", "host": "", "extra": ""}),
        json.dumps({"conn_type": "postgresql", "port": "", "description": "The shop."}),
    ],
)
def test_text_is_parsed_as_airflow_parses_it(text, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_C", text)
    assert from_environment("c") == airflow_reads(text)


texts = st.none() | st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1)

schemes = st.sampled_from(["", "http://", "https://", "sqlite:///", "sqlite:////", "file:///"])


@given(
    conn_type=st.sampled_from(["mlflow", "postgres", "google_cloud_platform", "http"]),
    scheme=schemes, host=st.text(st.sampled_from("abcXYZ019-._/@:%"), max_size=20), login=texts, password=texts,
    schema=texts, port=st.none() | st.integers(1, 65535),
    extra=st.none() | st.dictionaries(st.text("abc_-", min_size=1), st.text() | st.integers() | st.booleans()),
)  # fmt: skip
def test_a_uri_written_by_airflow_is_read_as_airflow_reads_it(
    conn_type, scheme, host, login, password, schema, port, extra
):
    from airflow.sdk import Connection

    written = Connection(
        conn_id="c", conn_type=conn_type, host=scheme + host, login=login, password=password, schema=schema, port=port,
        extra=json.dumps(extra) if extra else None,
    ).get_uri()  # fmt: skip
    try:
        expected = airflow_reads(written)
    except Exception:  # noqa: BLE001 - Airflow cannot read what it wrote
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_C", written)
        if expected is None:
            with pytest.raises(SpecError):
                from_environment("c")
        else:
            assert from_environment("c") == expected


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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{secret", "AIRFLOW_CONN_BAD"),
        ("just-a-secret", "AIRFLOW_CONN_BAD"),
        ("pg://me:secret@host:notaport/x", "AIRFLOW_CONN_BAD"),
        ("mlflow://me:secret@https://mlflow.example", "AIRFLOW_CONN_BAD"),
        ("mlflow://a://b://secret", "AIRFLOW_CONN_BAD"),
        ('[{"get_uri": "secret"}]', "AIRFLOW_CONN_BAD"),
        ('{"conn_type": "pg", "extra": "secret"}', "extra"),
        ('{"conn_type": "pg", "extra": ["secret"]}', "extra"),
        ('{"conn_type": "pg", "port": "secret"}', "port"),
        ('{"conn_type": "pg", "user": "secret"}', "'user'"),
        ("pg://h?__extra__=secret", "extra"),
    ],
)
def test_invalid_text_is_refused_and_not_shown(text, problem, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_BAD", text)
    with pytest.raises(SpecError, match=problem) as caught:
        from_environment("bad")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("query", [{"charset": "utf8mb4"}, '{"charset": "utf8mb4"}'])
def test_options_of_the_url_are_read_from_json_and_from_text(query):
    info = ConnectionInfo(conn_id="c", conn_type="mysql", host="db", extra={"sqlalchemy_query": query})
    assert sqlalchemy_url(info).render_as_string() == "mysql://db?charset=utf8mb4"


@pytest.mark.parametrize("query", ["charset=utf8mb4", ["charset"]])
def test_options_of_the_url_that_are_not_an_object_are_refused(query):
    with pytest.raises(SpecError, match="sqlalchemy_query"):
        sqlalchemy_url(ConnectionInfo(conn_id="c", conn_type="mysql", extra={"sqlalchemy_query": query}))


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
