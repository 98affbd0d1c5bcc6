"""Convert an Airflow connection to the settings with which ``deltalake`` accesses an object store."""

from __future__ import annotations

import os

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError

# Extra fields that select other credentials than those of the connection. Ignoring them would write as another user.
_UNSUPPORTED = ("role_arn", "assume_role_method", "profile_name", "credential_source", "session_kwargs")


def s3_options(info: ConnectionInfo) -> dict[str, str]:
    """Return the options of ``deltalake`` for an Airflow connection of the type ``aws``. They contain its secrets.

    If the connection has no access key, the credentials come from the environment, as in Airflow.

    :param info: the connection. Its login and password are the access key; its extra may have ``region_name``,
        ``endpoint_url`` and ``aws_session_token``
    :raises SpecError: the connection has a different type, an extra field that selects other credentials, or only one
        part of the access key
    """
    if info.conn_type != "aws":
        raise SpecError(
            f"Connection {info.conn_id!r} has the type {info.conn_type!r}, but a Delta table in S3 needs a connection of "
            "the type 'aws'. Choose one, or leave `conn_id` out to use the credentials of the environment."
        )
    extra = info.extra
    if unsupported := [name for name in _UNSUPPORTED if extra.get(name)]:
        raise SpecError(
            f"Connection {info.conn_id!r} has the extra field {unsupported[0]!r}, which is not supported for Delta "
            "tables. Choose a connection with an access key, or give the environment of the step the role and leave "
            "`conn_id` out."
        )
    key, secret = info.login or extra.get("aws_access_key_id"), info.secret or extra.get("aws_secret_access_key")
    if bool(key) != bool(secret):
        raise SpecError(
            f"Connection {info.conn_id!r} has only one part of the access key. Set the key id as login and the secret "
            "key as password, or neither to use the credentials of the environment."
        )
    if key and not extra.get("aws_session_token") and os.environ.get("AWS_SESSION_TOKEN"):
        raise SpecError(
            f"Connection {info.conn_id!r} has an access key, but the step's environment has a session token "
            "(AWS_SESSION_TOKEN), which would be sent with the key. Unset the variable, or leave `conn_id` out."
        )
    services = extra.get("service_config")
    service = services.get("s3") if isinstance(services, dict) else None
    endpoint = (service.get("endpoint_url") if isinstance(service, dict) else None) or extra.get("endpoint_url")
    found = {
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_session_token": extra.get("aws_session_token"),
        "aws_region": extra.get("region_name"),
        "aws_endpoint_url": endpoint,
        "aws_allow_http": "true" if str(endpoint).startswith("http://") else None,
    }
    return {name: str(value) for name, value in found.items() if value}
