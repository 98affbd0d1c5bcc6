"""Cache support of the stage ``validate``, see :mod:`airflow_mlops.stages.cache`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airflow_mlops.core import own_code
from airflow_mlops.core.errors import NotCacheableError
from airflow_mlops.core.fingerprints import canonical_json
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.selection import contents, select
from airflow_mlops.stages.cache import point_to, require_unpurged, verified
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.validate import suites
from airflow_mlops.stages.validate.outcomes import log_not_critical, write_outcomes
from airflow_mlops.stages.validate.spec import ValidateResult, ValidateSpec

_PARAMETER = "$PARAMETER"
# Expectations about the results of queries. Queries can read more than the validated rows.
_QUERIES = frozenset(
    {
        "unexpected_rows_expectation",
        "expect_query_results_to_match_comparison",
        "expect_table_row_count_to_equal_other_table",
    }
)


def inputs(spec: ValidateSpec, context: StepContext) -> dict[str, Any]:
    """Return the inputs of the validation: the rows, the content of the suite, and the code that defines the suite.

    :raises NotCacheableError: a database is validated, the rows are divided into shards, a dataset was purged, the suite has parameters or queries, or
        the code of an expectation is not known
    """
    if spec.dataset is None:
        raise NotCacheableError("only running a query shows whether its rows have changed")
    if spec.shards is not None:
        raise NotCacheableError("a validation in shards is not cached")
    datasets = select(context.store, spec.dataset, kept=context.kept)
    require_unpurged(datasets)
    return {
        "spec": spec.model_dump(mode="json", exclude={"dataset", "suite"}),
        "datasets": contents(datasets),
        "suite": _suite(spec.suite),
    }


def _suite(given: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(given, str) and not given.endswith(".json"):
        from airflow_mlops.stages.validate import checkpoint

        checkpoint.quiet_great_expectations()
        suite = suites.load_suite(given)
        # The user may have defined classes of expectations.
        classes = (f"{type(item).__module__}:{type(item).__name__}" for item in suite.expectations)
        code = own_code.hashes([given, *(path for path in classes if not path.startswith("great_expectations."))])
        return {"content": _self_contained(suite.to_json_dict()), "code": code}
    content = suites.read_json(given) if isinstance(given, str) else given
    _require_known(item.get("type") for item in content.get("expectations") or ())
    return {"content": _self_contained(content)}


def _self_contained(content: dict[str, Any]) -> dict[str, Any]:
    """Check that only the suite and the validated rows determine the outcomes.

    :raises NotCacheableError: the suite has parameters or queries
    """
    if _PARAMETER.encode() in canonical_json(content):
        raise NotCacheableError(f"the suite has parameters ({_PARAMETER}), whose values may depend on the time")
    if found := sorted(_QUERIES.intersection(item.get("type") for item in content.get("expectations") or ())):
        raise NotCacheableError(f"the expectation {found[0]!r} of the suite runs a query")
    return content


def _require_known(kinds: Iterable[Any]) -> None:
    """Check that Great Expectations itself defines the expectations. The check does not import Great Expectations.

    :raises NotCacheableError: another package or module defines an expectation, so its code is not known
    """
    package = find_spec("great_expectations")
    folder = Path(package.origin).parent / "expectations" / "core" if package and package.origin else Path()
    for kind in kinds:
        if not (folder / f"{kind}.py").is_file():
            raise NotCacheableError(f"the code of the expectation {kind!r} of the suite is not known")


def artifacts(result: ValidateResult, spec: ValidateSpec, context: StepContext) -> dict[str, str]:
    """Check the datasets of the result, and return their ids and the hash of the page of the Data Docs.

    :raises NotCacheableError: the Data Docs are in another artifact store
    :raises FileNotFoundError: the page does not exist any more
    :raises MLOpsError: a dataset does not exist any more, or was changed
    """
    assert result.docs_url is not None  # results of shards are not cached
    key = context.store.key_of(result.docs_url)
    if key is None:
        raise NotCacheableError("its Data Docs are in another artifact store")
    found = {"docs": hashlib.sha256(context.store.read_bytes(key)).hexdigest()}
    datasets = result.dataset if isinstance(result.dataset, list) else [result.dataset]
    for ref in filter(None, [*datasets, result.quarantined]):
        found |= verified(context.store, ref)
    return found


def replay(result: ValidateResult, spec: ValidateSpec, context: StepContext) -> None:
    """Make the written datasets the current datasets of their windows, log and store the outcomes."""
    if result.quarantined is not None and isinstance(result.dataset, DatasetRef):
        # With on_failure="quarantine", the step writes both datasets. Otherwise it writes none.
        point_to(context.store, result.dataset)
        point_to(context.store, result.quarantined)
    log_not_critical(result.outcomes)
    write_outcomes(context.store, context.key, result.outcomes)
