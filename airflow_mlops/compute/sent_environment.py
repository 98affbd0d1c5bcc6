"""The environment variables that executors of Spark and workers of Ray receive with the step."""

from __future__ import annotations

import os
from collections.abc import Iterable

from airflow_mlops.core.connections import ConnectionResolver, environment_name, to_json

# The variables with which fsspec and its packages find the artifact store and its credentials.
_STORE_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "FSSPEC_")
# These variables belong to the identity of the worker's machine or pod. Other machines have their own identity.
_IDENTITIES = {
    "AWS_WEB_IDENTITY_TOKEN_FILE": ("AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME"),
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": (),
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",),
    "AZURE_FEDERATED_TOKEN_FILE": ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_AUTHORITY_HOST"),
}


def sent_environment(conn_ids: Iterable[str], connection: ConnectionResolver) -> dict[str, str]:
    """Return the credentials of the artifact store and the connections of a step, as environment variables.

    :param conn_ids: ids of the Airflow connections that the step uses
    :param connection: function that looks up an Airflow connection by its id
    :raises ConnectionNotFoundError: a connection is not defined
    """
    found = {name: value for name, value in os.environ.items() if name.startswith(_STORE_PREFIXES)}
    for name in [name for name in _IDENTITIES if name in found]:
        for left_out in (name, *_IDENTITIES[name]):
            found.pop(left_out, None)
    return {**found, **{environment_name(conn_id): to_json(connection(conn_id)) for conn_id in sorted(conn_ids)}}
