"""Types of the functions that return the lineage of a stage."""

from __future__ import annotations

from typing import Any

from airflow.providers.openlineage.extractors import OperatorLineage

ResultJson = dict[str, Any] | None
Lineage = OperatorLineage[Any, Any]
