"""The ``row_condition`` of an expectation, which selects the rows that the expectation considers.

Great Expectations passes the condition to ``DataFrame.query``. Whether a row meets the condition can depend on other rows,
as in ``price > price.mean()`` or ``index < 100``. Batches can be validated separately only if it does not. This is known
for comparisons of columns and constants and for a few methods, such as ``isnull`` and ``str.contains``.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_IN_BACKTICKS = re.compile("`([^`]*)`")
# In the conditions of pandas, `&` and `|` have the precedence of `and` and `or`. In Python, theirs is higher.
_BOOLEAN = {"&": "and", "|": "or"}
_TESTS = frozenset({"between", "isin", "isna", "isnull", "notna", "notnull"})
_TEXT_TESTS = frozenset({"contains", "endswith", "fullmatch", "match", "startswith"})
_TEXT_VALUES = frozenset({"len", "lower", "strip", "upper"})
_PARTS_OF_TIMES = frozenset({
    "date", "day", "dayofweek", "dayofyear", "hour", "microsecond", "minute", "month", "quarter", "second", "weekday", "year",
})  # fmt: skip


class RowCondition(NamedTuple):
    """A condition whose result for a row does not depend on other rows.

    :param text: the condition for ``DataFrame.query``
    :param columns: names of the columns that it reads
    """

    text: str
    columns: Sequence[str]


def has_condition(expectation: Any) -> bool:
    """Return whether an expectation has a ``row_condition``."""
    return getattr(expectation, "row_condition", None) is not None


def row_condition(expectation: Any, schema: pa.Schema) -> RowCondition | None:
    """Return the condition of an expectation.

    :param expectation: an expectation with a ``row_condition``
    :param schema: the columns of the rows
    :return: ``None`` if the result for a row may depend on other rows, or if the condition is not valid
    """
    text = _text(expectation.row_condition)
    if text is None:
        return None
    quoted: dict[str, str] = {}

    def plain(found: re.Match[str]) -> str:
        name = f"mlops_quoted_{len(quoted)}"
        quoted[name] = found[1]
        return name

    try:
        tree = ast.parse(_with_words(_IN_BACKTICKS.sub(plain, text)), mode="eval")
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None
    reader = _Reader(schema, quoted)
    # Backticks within a text, such as '`a`', do not quote the name of a column.
    if not reader.is_test(tree.body) or not reader.columns or not {*quoted} <= reader.read:
        return None
    return RowCondition(text, list(reader.columns))


def _text(condition: Any) -> str | None:
    """Return the condition for ``DataFrame.query``, as Great Expectations creates it."""
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.expectations.row_conditions import (
        Condition,
        PassThroughCondition,
        deserialize_row_condition,
    )

    if isinstance(condition, dict):
        condition = deserialize_row_condition(condition)
    if isinstance(condition, PassThroughCondition):
        return condition.pass_through_filter
    return PandasExecutionEngine().condition_to_filter_clause(condition) if isinstance(condition, Condition) else None


def _with_words(text: str) -> str:
    """Replace ``&`` and ``|`` by ``and`` and ``or``, so that Python reads them with the precedence that pandas gives them."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    words = ((tokenize.NAME, _BOOLEAN[text]) if text in _BOOLEAN else (kind, text) for kind, text, *_ in tokens)
    return tokenize.untokenize(words).strip()


class _Reader:
    """Reads a condition.

    :ivar columns: names of the columns that were read
    :ivar read: the same names as they are written in the tree
    """

    def __init__(self, schema: pa.Schema, quoted: dict[str, str]) -> None:
        self._types = dict(zip(schema.names, schema.types, strict=True))
        self._quoted = quoted
        self.columns: dict[str, None] = {}
        self.read: set[str] = set()

    def is_test(self, node: ast.expr) -> bool:
        """Return whether the node is true or false for each row, whatever the other rows are."""
        match node:
            case ast.BoolOp(values=values):
                return all(map(self.is_test, values))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
                return self.is_test(operand)
            case ast.Compare(left=left, ops=ops, comparators=others):
                return self._is_value(left) and all(map(self._is_comparison, ops, others))
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=of, attr="str"), attr=name)):
                return name in _TEXT_TESTS and self._is_column(of) and _has_constants(node)
            case ast.Call(func=ast.Attribute(value=of, attr=name)):
                return name in _TESTS and self._is_column(of) and _has_constants(node)
            case ast.Name():
                return self._is_column(node) and pa.types.is_boolean(self._types[self._named(node)])
        return False

    def _is_comparison(self, operator: ast.cmpop, other: ast.expr) -> bool:
        if isinstance(operator, ast.In | ast.NotIn):
            return _is_list(other)
        if isinstance(operator, ast.Eq | ast.NotEq) and _is_list(other):
            return True
        return not isinstance(operator, ast.Is | ast.IsNot) and self._is_value(other)

    def _is_value(self, node: ast.expr) -> bool:
        """Return whether the node has a value for each row, whatever the other rows are."""
        if _is_constant(node):
            return True
        match node:
            case ast.Name():
                return self._is_column(node)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self._is_value(operand)
            case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Mod(), right=right):
                return self._is_value(left) and self._is_value(right)
            case ast.Attribute(value=ast.Attribute(value=of, attr="dt"), attr=name):
                return name in _PARTS_OF_TIMES and self._is_column(of)
            case ast.Call(func=ast.Attribute(value=ast.Attribute(value=of, attr="str"), attr=name)):
                return name in _TEXT_VALUES and self._is_column(of) and _has_constants(node)
        return False

    def _is_column(self, node: ast.expr) -> bool:
        # Other names are those of pandas, such as `index`.
        if not isinstance(node, ast.Name) or (name := self._named(node)) not in self._types:
            return False
        self.columns[name] = None
        self.read.add(node.id)
        return True

    def _named(self, node: ast.Name) -> str:
        return self._quoted.get(node.id, node.id)


def _is_constant(node: ast.expr) -> bool:
    match node:
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            return _is_constant(operand)
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float | str)
    return False


def _is_list(node: ast.expr) -> bool:
    return isinstance(node, ast.List | ast.Tuple) and all(map(_is_constant, node.elts))


def _has_constants(node: ast.expr) -> bool:
    assert isinstance(node, ast.Call)
    return all(_is_constant(given) or _is_list(given) for given in _arguments(node))


def _arguments(node: ast.Call) -> Iterator[ast.expr]:
    yield from node.args
    yield from (given.value for given in node.keywords)
