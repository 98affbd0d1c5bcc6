"""Credentials do not leave a step in errors, logs and termination messages."""

from __future__ import annotations

import io
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core import secrets
from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import EmptyWindowError, MemoryLimitError, by_name
from airflow_mlops.core.secrets import MaskedStream, mask, mask_chain
from airflow_mlops.core.termination import TerminationMessage


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())


PASSWORD = st.text(string.ascii_letters + string.digits + "!$*+,;=:@/.~_-%&", min_size=6).map(
    lambda text: f"s3cr{text}t"
)
USER = st.text(string.ascii_letters + string.digits + "._%-", min_size=1, max_size=8)
SCHEME = st.sampled_from(["https", "http", "ftp", "sftp", "postgresql+psycopg", "mlflow", "s3", "abfs"])
AROUND = st.sampled_from([("", ""), ("Cannot read '", "'."), ("(see ", ")"), ("url: ", ": 403, and more")])


@given(scheme=SCHEME, user=USER, password=PASSWORD, around=AROUND)
def test_a_password_in_a_url_is_masked(scheme, user, password, around):
    text = f"{around[0]}{scheme}://{user}:{password}@db.example.org:5432/late{around[1]}"
    found = mask(text)
    assert password not in found
    assert "db.example.org:5432/late" in found
    assert mask(found) == found


@given(
    scheme=st.sampled_from(["https://h.example", "http://h.example:8080", "", "abfs://c@a.example"]),
    name=st.sampled_from(["sig", "Signature", "X-Amz-Signature", "X-Amz-Security-Token", "token", "AWSAccessKeyId"]),
    secret=st.text(string.ascii_letters + string.digits + "%+/=-._~", min_size=6).map(lambda text: f"s3cr{text}"),
    around=AROUND,
)
def test_the_signature_of_a_url_is_masked(scheme, name, secret, around):
    text = f"{around[0]}{scheme}/late.csv?v=1&{name}={secret}&x=2{around[1]}"
    assert secret not in mask(text)
    assert "/late.csv" in mask(text)


@given(secret=PASSWORD, around=AROUND)
def test_a_secret_of_a_connection_is_masked_wherever_it_stands(secret, around):
    ConnectionInfo.of(
        "db", conn_type="postgres", host="h", password=secret, extra={"a": {"client_secret": f"x{secret}"}}
    )
    for text in (secret, f"x{secret}", f"password {secret} refused"):
        assert secret not in mask(f"{around[0]}{text}{around[1]}")


@pytest.mark.parametrize(
    "text",
    [
        "host=db user=ada password=s3cret dbname=late",
        "AccountName=a;AccountKey=s3cret;EndpointSuffix=core",
        "SERVER=h;PWD=s3cret;UID=u",
        "?sslpassword=s3cret&x=1",
        "api_key=s3cret, client_secret=s3cret",
        "https://s3cret@github.com/x",
        "https://u:s3cret@h/p@v1/file",
    ],
)
def test_credentials_are_masked_by_their_form(text):
    assert "s3cret" not in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        "file:///srv/late/2013@v1.csv",
        "abfs://mlops@account.dfs.core.windows.net/store",
        "s3://bucket/2013-0?.csv",
        "http://mlflow:5000/a@b",
        "sqlite:////srv/mlflow@home.db",
        "Log the model with signature=infer_signature(X, predictions).",
        "design=split sigma=2 tokens=5 passes=3 key=value",
        "Write to ada@example.org about https://example.org/docs.",
        "hash_conn_id='pseudonyms'",
    ],
)
def test_other_text_stays_as_it_is(text):
    assert mask(text) == text


def test_short_passwords_do_not_mask_ordinary_words():
    ConnectionInfo.of("db", conn_type="postgres", password="a", extra={"charset": "utf8mb4"})
    assert mask("a table in utf8mb4") == "a table in utf8mb4"


URL = "https://ada:s3cret@example.org/late.csv?sig=s3cret"


def test_errors_and_termination_messages_pass_the_mask(tmp_path):
    assert "s3cret" not in str(EmptyWindowError(f"{URL} has no rows"))
    assert "s3cret" not in str(MemoryLimitError(URL, grows=True))
    assert "s3cret" not in str(by_name("SourceError")(URL))
    file = tmp_path / "termination-log"
    file.touch()
    with TerminationMessage(file) as message:
        message.fail(ValueError(URL))
    assert "example.org/late.csv" in json.loads(file.read_text())["message"]
    assert "s3cret" not in file.read_text()


class StubbornError(Exception):
    def __str__(self):
        return URL


def chained():
    """Raise an error with a cause that has a secret in its message, and a cause of this one that cannot be changed."""
    try:
        try:
            raise StubbornError
        except StubbornError as error:
            raise ValueError(URL) from error
    except ValueError as error:
        raise EmptyWindowError("No rows.") from error


def test_the_causes_of_an_error_are_masked():
    with pytest.raises(EmptyWindowError) as raised:
        chained()
    mask_chain(raised.value)
    cause = raised.value.__cause__
    assert str(cause) == "https://example.org/late.csv"
    assert (cause.__cause__, cause.__context__) == (None, None)


def test_output_is_masked():
    output = io.StringIO()
    print("reading", URL, file=MaskedStream(output))
    assert output.getvalue() == "reading https://example.org/late.csv\n"


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("postgresql://ada:hunter2@db/shop", ["hunter2"]),
        ("https://ghp_0123456789@github.com/x", ["ghp_0123456789"]),
        ("https://b.example/x.csv?sv=1&sig=ab%2Fc&se=2", ["ab%2Fc"]),
        ("s3://bucket/x?secret_access_key=abcde", ["abcde"]),
        ("https://a:one22@h/ and https://b:two33@h/?token=three", ["one22", "two33", "three"]),
        ("abfs://container@account.dfs.core.windows.net/x", []),
        ("https://airflow.example.com:8080/x?page=2", []),
        ("mail to ada@example.com", []),
        ("https://h/x?design=2&assigned=3", []),
    ],
)
def test_the_credentials_in_urls_are_found(text, credentials):
    assert list(secrets.url_credentials(text)) == credentials


@pytest.mark.parametrize(
    ("value", "secret"),
    [
        ("{{ conn.shop.password }}", True),
        ("x{{- conn['shop'].extra_dejson.key }}", True),
        ("{% set c = conn.get('shop') %}{{ c.host }} {{ conn.shop.get_uri() }}", True),
        ({"a": ["{{ var.json.shop['api_key'] }}"]}, True),
        ("{{ var.value.get('DB_PASSWORD') }}", True),
        ("{{ conn.shop.host }}:{{ conn.shop.port }} for {{ conn.shop.login }}", False),
        ("{{ conn.shop.host }} has no password", False),
        ({"a": ["{{ var.value.region }}", "{{ params.password_length }}", 1, None]}, False),
        ("conn.shop.password", False),
    ],
)
def test_templates_of_secrets_are_recognised(value, secret):
    assert secrets.has_secret_template(value) is secret


def test_credentials_are_found_at_any_depth_and_not_shown():
    value = {
        "files": ["https://h/x.csv", "https://u:s3cret@h/x"],
        "csv": {"sep": ","},
        "deep": [{"url": "s3://a?sig=s3cret"}],
    }
    assert list(secrets.credential_paths(value)) == ["files[1]", "deep[0].url"]
