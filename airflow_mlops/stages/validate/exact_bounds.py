"""Refuse integers in expectations that Great Expectations would round, because it stores numbers in double precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from numbers import Integral
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import SpecError

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

# From this number on, double precision does not represent every integer.
_LARGE = 2**53


def require_exact(given: Mapping[str, Any], expectation: Expectation, what: str) -> None:
    """Check that an expectation has the integers with which it was created.

    :param given: the arguments with which the expectation was created
    :param what: subject of the error message, such as ``The suite``
    :raises SpecError: Great Expectations has rounded an integer
    """
    for name, value in given.items():
        exact, rounded = _whole(value), getattr(expectation, name, None)
        if exact is not None and isinstance(rounded, float) and exact != rounded:
            raise SpecError(
                f"{what} is not valid: Great Expectations would round `{name}` of {expectation.expectation_type} from {exact} to "
                f"{rounded:.0f}, because it stores numbers in double precision. Set it to a number that double precision can hold."
            )


class ExactBounds:
    """The large numbers that were checked when a function of the user created its expectations.

    :param what: subject of the error messages, such as ``The suite 'checks:orders'``
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._checked: set[float] = set()

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Check each expectation that is created in the block.

        :raises SpecError: Great Expectations has rounded an integer
        """
        from great_expectations.expectations.expectation import Expectation

        kind: Any = Expectation
        inherited, create = "__init__" not in vars(kind), kind.__init__

        def created(expectation: Any, *args: Any, **given: Any) -> None:
            create(expectation, *args, **given)
            require_exact(given, expectation, self._what)
            self._checked |= {*_large(expectation)}

        kind.__init__ = created
        try:
            yield
        finally:
            if inherited:
                del kind.__init__
            else:
                kind.__init__ = create

    def require_checked(self, expectations: Sequence[Expectation]) -> None:
        """Check that each large number was given when an expectation was created in the block of :meth:`checking`.

        A module that was imported earlier may have created its expectations from integers that are no longer known.

        :raises SpecError: an expectation with a large number was created before the block, so it may have been rounded
        """
        for expectation in expectations:
            for number in _large(expectation):
                if number not in self._checked:
                    raise SpecError(
                        f"{self._what} has the number {number:.0f} in {expectation.expectation_type}, which Great Expectations may "
                        "have rounded when the module was imported. Create the expectation in the function."
                    )


def _whole(given: Any) -> int | None:
    if isinstance(given, Decimal):
        return int(given) if given.is_finite() and given == int(given) else None
    return int(given) if isinstance(given, Integral) else None


def _large(expectation: Expectation) -> Iterator[float]:
    return (
        value
        for value in vars(expectation).values()
        if isinstance(value, float) and _LARGE <= abs(value) < float("inf")
    )
