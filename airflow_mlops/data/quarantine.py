"""Names of the datasets and the column that a validation with ``on_failure="quarantine"`` writes."""

from __future__ import annotations

FAILED_EXPECTATIONS = "failed_expectations"
"""Name of the column of quarantined rows. The column lists the expectations that the row does not meet."""

_VALID, _QUARANTINE = "_valid", "_quarantine"


def valid_name(name: str) -> str:
    """Return the name of the datasets with the valid rows of the datasets ``name``."""
    return f"{name}{_VALID}"


def quarantine_name(name: str) -> str:
    """Return the name of the datasets with the failing rows of the datasets ``name``."""
    return f"{name}{_QUARANTINE}"


def quarantines_of(name: str) -> set[str]:
    """Return the names of the datasets that can contain quarantined rows of ``name``.

    Validated rows are in a separate dataset: for ``trips_valid``, the result includes ``trips_quarantine``.
    """
    return {quarantine_name(name), quarantine_name(name.removesuffix(_VALID))}
