"""Convert rows that were checked for the champion to the fields of another version, such as a canary."""

from __future__ import annotations

import pyarrow as pa

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.types import as_doubles
from airflow_mlops.serving.rows.request import InputColumns, Rows, as_list


def difference(sent: InputColumns, wanted: InputColumns) -> str | None:
    """Return why requests with the fields of the champion cannot be passed to another version.

    :param sent: input fields of the champion
    :param wanted: input fields of the other version
    :return: the reason as a clause; ``None`` if the rows can be passed on
    """
    kinds = {feature.name: feature.kind for feature in sent.features}
    for feature in wanted.features:
        if feature.name not in kinds and feature.name not in sent.carried:
            return f"requests do not have its feature {feature.name!r}, because it is not a feature of the champion"
        kind = kinds.get(feature.name, feature.kind)
        if kind != feature.kind and (kind, feature.kind) != ("integer", "number"):
            return f"its feature {feature.name!r} has the type {feature.kind}, but the champion's feature has the type {kind}"
    return None


def converted(rows: Rows, columns: InputColumns) -> Rows:
    """Return rows with the fields of another version.

    :param rows: rows that were checked for the champion
    :param columns: fields of the other version
    :raises SchemaError: a feature is missing, or a value has the wrong type
    """
    features = {}
    for feature in columns.features:
        if feature.name in rows.features:
            features[feature.name] = as_list(rows.features[feature.name])
        elif feature.name in rows.carried:
            values = rows.carried[feature.name]
            features[feature.name] = (as_doubles(values) if pa.types.is_decimal(values.type) else values).to_pylist()
        else:
            raise SchemaError(f"The rows have no field {feature.name!r}, which is a feature of the other version.")
    carried = {}
    for name, kind in columns.carried.items():
        if name in rows.carried or name in rows.features:
            values = rows.carried[name] if name in rows.carried else pa.array(rows.features[name])
            try:
                carried[name] = values.cast(kind)
            except pa.ArrowException:
                raise SchemaError(f"The field {name!r} has a value that is not of the type {kind}.") from None
    return Rows(rows.count, columns.checked(features, {}, rows.count, features).features, carried)
