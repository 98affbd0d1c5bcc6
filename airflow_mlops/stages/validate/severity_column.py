"""A column with the severity of each expectation in the page of the results, which Great Expectations 1.24 does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from great_expectations.render.renderer.content_block.validation_results_table_content_block import (
    ValidationResultsTableContentBlockRenderer,
)


class SeverityTable(ValidationResultsTableContentBlockRenderer):
    """Renders the table of the results of a column, or of the whole table, with a column ``Severity``."""

    @classmethod
    def _process_content_block(cls, content_block: Any, *args: Any, **kwargs: Any) -> None:
        super()._process_content_block(content_block, *args, **kwargs)
        content_block.header_row.append("Severity")
        content_block.header_row_options["Severity"] = {"sortable": True}

    @classmethod
    def _get_content_block_fn(cls, *args: Any, **kwargs: Any) -> Callable[..., list[list[Any]]]:
        render: Any = super()._get_content_block_fn(*args, **kwargs)

        def with_severity(*, result: Any, **given: Any) -> list[list[Any]]:
            return [[*row, result.expectation_config.severity.value] for row in render(result=result, **given)]

        return with_severity
