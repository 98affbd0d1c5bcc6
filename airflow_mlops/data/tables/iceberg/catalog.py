"""Convert an Airflow connection to the settings with which PyIceberg accesses a catalog."""

from __future__ import annotations

from airflow_mlops.core.connections import ConnectionInfo
from airflow_mlops.core.errors import SpecError


def properties(info: ConnectionInfo) -> dict[str, str]:
    """Return the properties of a PyIceberg catalog for an Airflow connection. They contain its secrets.

    The fields have the same meaning as in Airflow's provider for Iceberg: the extra contains the properties, the host is
    the URI of the catalog, and for a REST catalog the login and the password are the OAuth client.

    :param info: the connection, of the type ``iceberg``
    :raises SpecError: the connection has another type, only one part of the OAuth client, or a property that is neither
        text, a number nor a boolean
    """
    if info.conn_type != "iceberg":
        raise SpecError(
            f"Connection {info.conn_id!r} has the type {info.conn_type!r}, but an Iceberg table needs a connection of the "
            "type 'iceberg'. Choose one."
        )
    found: dict[str, str] = {"type": "rest"}
    for name, value in info.extra.items():
        if isinstance(value, bool):
            found[name] = str(value).lower()
        elif isinstance(value, (str, int, float)):
            found[name] = str(value)
        else:
            raise SpecError(
                f"Connection {info.conn_id!r} has the extra field {name!r}, which is neither text, a number nor a boolean. "
                "Write properties of the catalog with their full names, such as 's3.region'."
            )
    if info.host:
        found["uri"] = info.host.rstrip("/")
    if found["type"] == "rest":
        if bool(info.login) != bool(info.secret):
            raise SpecError(
                f"Connection {info.conn_id!r} has only one part of the OAuth client. Set the client id as login and the client "
                "secret as password, or neither."
            )
        if info.login:
            found["credential"] = f"{info.login}:{info.secret}"
    return found
