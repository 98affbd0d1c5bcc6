"""A connection that cannot be looked up now and a connection that does not exist are different errors."""

from __future__ import annotations

import pytest

from airflow_mlops.compute.connections import look_up
from airflow_mlops.core.errors import ConnectionNotFoundError, ConnectionUnavailableError, SpecError


class Vault:
    """A secrets backend, with Airflow's own parsing of its values."""

    def __new__(cls, answer):
        from airflow.sdk import Connection
        from airflow.sdk.bases.secrets_backend import BaseSecretsBackend

        class Vault(BaseSecretsBackend):
            def get_conn_value(self, conn_id, team_name=None):
                if isinstance(answer, Exception):
                    raise answer
                return answer

        made = Vault()
        made._set_connection_class(Connection)
        return made


@pytest.fixture
def look(monkeypatch):
    """Look up a connection with the given secrets backends, as in a task."""
    from airflow.sdk import BaseHook
    from airflow.sdk.execution_time import supervisor

    def look(*answers):
        backends = [Vault(answer) for answer in answers]
        monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: backends)
        return look_up("shop", BaseHook.get_connection, lambda: backends)

    return look


def test_the_first_backend_that_has_the_connection_counts(look):
    assert look(None, "mlflow://https://mlflow.example", "mlflow://other").host == "https://mlflow.example"


@pytest.mark.parametrize("answers", [[], [None], [None, ""]])
def test_a_connection_that_no_backend_has_is_a_final_error(answers, look):
    with pytest.raises(ConnectionNotFoundError) as caught:
        look(*answers)
    assert not caught.value.retryable


def test_an_unavailable_backend_is_named_and_retried(look):
    with pytest.raises(ConnectionUnavailableError, match="Vault.*no route to host") as caught:
        look(OSError("no route to host"), None)
    assert caught.value.retryable


def test_an_unavailable_backend_does_not_matter_if_another_has_the_connection(look):
    assert look(OSError("away"), "mlflow://mlflow.example").host == "mlflow.example"


@pytest.mark.parametrize("text", ["{geheim", "mlflow://a://b://geheim", '{"conn_type": "x", "user": "geheim"}'])
def test_a_value_that_airflow_cannot_parse_is_a_final_error_and_not_shown(text, look):
    with pytest.raises(SpecError, match="'shop'") as caught:
        look(text)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("extra", ["[1]", "{", '"text"'])
def test_an_extra_that_is_not_an_object_is_a_final_error(extra, look):
    import json

    with pytest.raises(SpecError, match="extra"):
        look(json.dumps({"conn_type": "postgres", "extra": extra}))


def test_a_connection_that_airflow_denies_is_a_final_error(look):
    from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied

    with pytest.raises(ConnectionNotFoundError, match="does not give"):
        look(AirflowSecretsBackendAccessDenied("no"))


def test_a_backend_that_cannot_be_loaded_is_a_final_error():
    from airflow.sdk.exceptions import AirflowConfigException

    def fail(*_):
        raise AirflowConfigException("The object could not be loaded.")

    with pytest.raises(SpecError, match="secrets"):
        look_up("shop", fail, fail)


def test_the_api_server_that_does_not_answer_is_retried(monkeypatch):
    """Airflow itself reports the connection as undefined then."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time import supervisor, task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    class Comms:
        def __init__(self, error):
            self.error = error

        def send(self, msg):
            response = ErrorResponse(error=self.error, detail={"message": "502 Bad Gateway"})
            if self.error == ErrorType.API_SERVER_ERROR:
                raise AirflowRuntimeError(response)
            return response

    monkeypatch.setattr(supervisor, "ensure_secrets_backend_loaded", lambda: [ExecutionAPISecretsBackend()])
    for error, kind in (
        (ErrorType.API_SERVER_ERROR, ConnectionUnavailableError),
        (ErrorType.CONNECTION_NOT_FOUND, ConnectionNotFoundError),
        (ErrorType.PERMISSION_DENIED, ConnectionNotFoundError),
    ):
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Comms(error), raising=False)
        with pytest.raises(kind):
            look_up("shop", BaseHook.get_connection, supervisor.ensure_secrets_backend_loaded)
