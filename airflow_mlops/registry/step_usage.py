"""The resources that the steps of a version used, from the tags of its MLflow run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from pydantic import ValidationError

from airflow_mlops.core.usage import Usage
from airflow_mlops.registry.names import USAGE_TAG


def by_step(tags: Mapping[str, str]) -> dict[str, Usage]:
    """Return the resources that each step used for a version, by name of the step.

    :param tags: tags of the version's MLflow run
    """
    fields: dict[str, dict[str, str]] = {}
    for tag, value in sorted(tags.items()):
        if tag.startswith(f"{USAGE_TAG}."):
            step, _, name = tag.removeprefix(f"{USAGE_TAG}.").partition(".")
            fields.setdefault(step, {})[name] = value
    used = {}
    for step, found in fields.items():
        # A person may have changed the tags.
        with suppress(ValidationError):
            used[step] = Usage.model_validate(found)
    return used
