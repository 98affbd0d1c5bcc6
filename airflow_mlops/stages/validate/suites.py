"""Load the expectation suites of Great Expectations."""

from __future__ import annotations

import importlib
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from airflow_mlops.core import strict_json
from airflow_mlops.core.errors import SpecError, one_line
from airflow_mlops.stages.validate.exact_bounds import ExactBounds, require_exact
from airflow_mlops.stages.validate.spec import Severity

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite


def load_suite(given: str | dict[str, Any]) -> ExpectationSuite:
    """Load an expectation suite from a JSON file, a dict, or a function that returns the suite.

    :param given: path of a ``.json`` file, the content of such a file as a dict, or the import path
        ``package.module:function`` of a function
    :raises SpecError: the suite cannot be loaded, has an unknown severity, or has an integer that Great Expectations would
        round
    """
    from great_expectations import ExpectationSuite

    if isinstance(given, dict):
        return _from_dict(given, "The suite")
    if given.endswith(".json"):
        return _from_dict(read_json(given), f"The suite {given}")
    module, _, name = given.partition(":")
    if not name:
        raise SpecError(
            f"suite={given!r} is neither the path of a .json file nor an import path. Set `suite` to one of them; an "
            "import path has the form `package.module:function`."
        )
    bounds = ExactBounds(f"The suite {given!r}")
    try:
        with bounds.checking():
            suite = getattr(importlib.import_module(module), name)()
    except SpecError:
        raise
    except Exception as error:
        if "severity" in _names_of(error):
            raise _unknown_severity(f"The suite {given!r}", "an expectation") from None
        raise SpecError(
            f"The suite {given!r} cannot be created: {one_line(error)}. Correct the function or its import path."
        ) from error
    if not isinstance(suite, ExpectationSuite):
        raise SpecError(
            f"The function {given!r} returned {type(suite).__name__}. Return a great_expectations.ExpectationSuite."
        )
    bounds.require_checked(suite.expectations)
    for expectation in suite.expectations:
        _require_severity(expectation, f"The suite {given!r}")
    return _copy(suite.name, suite.expectations, suite.meta, suite.notes)


def read_json(path: str) -> dict[str, Any]:
    """Read the content of a suite in Great Expectations' format.

    :raises SpecError: the file cannot be read, or is not a JSON object
    """
    try:
        content = strict_json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            f"The suite {path} cannot be read where the step runs: {error.strerror}. Correct `suite`."
        ) from None
    except ValueError as error:
        raise SpecError(f"The suite {path} is not valid JSON: {error}. Correct the file.") from None
    if not isinstance(content, dict):
        raise SpecError(
            f"The suite {path} contains a JSON {type(content).__name__}. Write an object with the keys `name` and "
            "`expectations`."
        )
    return content


def _from_dict(content: dict[str, Any], what: str) -> ExpectationSuite:
    if not content.get("expectations"):
        raise SpecError(f"{what} has no expectations. Add at least one to its key `expectations`.")
    try:
        # Expectations are created one by one, because ExpectationSuite would skip invalid ones and only log them.
        expectations = [expectation_of(given, what) for given in content["expectations"]]
        return _copy(content.get("name") or "suite", expectations, content.get("meta"), content.get("notes"))
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(
            f"{what} is not a valid suite of Great Expectations: {one_line(error)}. Correct the suite."
        ) from error


def expectation_of(given: dict[str, Any], what: str) -> Any:
    """Create one expectation.

    :param what: subject of the error message, such as ``The suite``
    :raises SpecError: the severity is unknown, a bound is neither a number nor a date or time, or is an integer that Great
        Expectations would round
    """
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    # Great Expectations, too, reads a stored null as the default.
    given = {name: value for name, value in given.items() if name != "severity" or value is not None}
    for arguments in (given, given.get("kwargs") or {}):
        if "severity" in arguments and arguments["severity"] not in get_args(Severity):
            raise _unknown_severity(what, str(given.get("type")), arguments["severity"])
    try:
        expectation = ExpectationConfiguration(**given).to_domain_obj()
        _require_severity(expectation, what)
        require_exact(given["kwargs"], expectation, what)
        return expectation
    except ValueError as error:
        # pydantic reports one problem for each type that the bound could have.
        if bounds := [name for name in _names_of(error) if name in ("min_value", "max_value")]:
            value = given["kwargs"][bounds[0]]
            raise SpecError(
                f"{what} is not valid: `{bounds[0]}` of {given['type']} is {value!r}, which is neither a number nor a date or "
                "time in ISO 8601, such as 2024-03-05 or 2024-03-05T06:30:00Z. Correct the suite."
            ) from None
        raise


def _names_of(error: Exception) -> list[Any]:
    """Return the names of the arguments that pydantic has refused."""
    return [item["loc"][0] for item in error.errors()] if hasattr(error, "errors") else []


def _require_severity(expectation: Any, what: str) -> None:
    """Check that an expectation has a severity, and that Great Expectations uses this severity.

    :raises SpecError: the severity was set to an unknown one; or it is the default of a user's class, for which Great
        Expectations uses its own default
    """
    severity = getattr(expectation.severity, "value", expectation.severity)
    if severity not in get_args(Severity):
        raise _unknown_severity(what, expectation.expectation_type, severity)
    if expectation.configuration.severity.value != severity:
        raise SpecError(
            f"{what} is not valid: the class of {expectation.expectation_type} has the default severity {severity!r}, which Great "
            "Expectations ignores. Remove the default from the class, and set `severity` of the expectation."
        )


def _unknown_severity(what: str, expectation: str, *value: Any) -> SpecError:
    is_value = f" is {value[0]!r}, which" if value else ""
    names = ", ".join(map(repr, get_args(Severity)))
    return SpecError(
        f"{what} is not valid: `severity` of {expectation}{is_value} is unknown. Set it to one of {names}."
    )


def _copy(name: str, expectations: list[Any], meta: dict[str, Any] | None, notes: Any) -> ExpectationSuite:
    """Create a suite with copies of ``expectations``.

    Great Expectations rejects an expectation that is already part of a stored suite.
    """
    from great_expectations import ExpectationSuite

    return ExpectationSuite(name=name, expectations=[copy(one) for one in expectations], meta=meta, notes=notes)
