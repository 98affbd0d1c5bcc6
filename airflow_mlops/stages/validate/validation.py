"""A validated table or query of a database, and the results of its suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_mlops.stages.validate.outcomes import critical
from airflow_mlops.stages.validate.relation import Columns, Relation
from airflow_mlops.stages.validate.spec import ExpectationOutcome, ValidateSpec

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult

    from airflow_mlops.stages.validate.sql_engine import RelationEngine


@dataclass(frozen=True)
class Validation:
    """A validated table or query, and the results of all expectations of the suite.

    :param engine: execution engine with which Great Expectations computed the results
    """

    spec: ValidateSpec
    relation: Relation
    columns: Columns
    engine: RelationEngine
    results: Sequence[ExpectationValidationResult]
    outcomes: Sequence[ExpectationOutcome]
    suite: str
    docs_url: str

    @property
    def failed(self) -> list[ExpectationOutcome]:
        """Return the failed expectations to which ``on_failure`` applies."""
        return critical(self.outcomes)

    @property
    def headline(self) -> str:
        """Return how many expectations passed, such as ``orders: 6 of 7 expectations of suite 'x' passed``."""
        name, window = self.spec.rows_name, self.spec.window
        passed = f"{sum(outcome.success for outcome in self.outcomes)} of {len(self.outcomes)}"
        return f"{f'{name} {window.label}' if window else name}: {passed} expectations of suite {self.suite!r} passed"

    @property
    def rows(self) -> int | None:
        """Return the number of rows; ``None`` if no expectation counts them."""
        for result in self.results:
            if _has_condition(result):
                continue
            if "element_count" in result.result:
                return int(result.result["element_count"])
            if _config(result).type.startswith("expect_table_row_count_to_"):
                return int(result.result["observed_value"])
        return None


def about_rows(result: ExpectationValidationResult) -> bool:
    """Return whether the expectation of a result concerns single rows."""
    # Great Expectations compares the type of a column with the types in the suite without reading rows.
    is_mapped = isinstance(getattr(_config(result).to_domain_obj(), "map_metric", None), str)
    return is_mapped and "unexpected_count" in result.result


def _has_condition(result: ExpectationValidationResult) -> bool:
    return _config(result).kwargs.get("row_condition") is not None


def _config(result: ExpectationValidationResult) -> Any:
    config = result.expectation_config
    assert config is not None
    return config
