"""Parser of expressions over columns. The syntax is that of Python without function calls.

A column name that is not a Python identifier, such as ``arrival delay``, is written between backticks, as in
:meth:`pandas.DataFrame.query`. A backtick inside a name is doubled.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from airflow_mlops.core.errors import SpecError

_OPERATORS: tuple[type[ast.AST], ...] = (
    ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.And, ast.Or, ast.Not,
    ast.USub,
)  # fmt: skip
_NODES: tuple[type[ast.AST], ...] = (
    ast.Name, ast.Load, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, *_OPERATORS,
)  # fmt: skip
# Quoted text, in which a backtick is a character like any other, or a quoted name.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<name>(?:[^`]|``)*)`""", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    :param tree: Python's syntax tree of the expression. Each name between backticks is replaced by a new identifier
    :param names: name of the column by identifier in the tree
    """

    tree: ast.expr
    names: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns that the expression uses, sorted."""
        return sorted({self.column(node) for node in ast.walk(self.tree) if isinstance(node, ast.Name)})

    def column(self, node: ast.Name) -> str:
        """Return the name of the column that an identifier in the tree stands for."""
        return self.names[node.id]


def parse(expression: str) -> Expression:
    """Parse the text of an expression over columns.

    :raises SpecError: ``expression`` contains syntax that is not supported
    """
    names: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        if match["name"] is None:
            return match[0]
        # The identifier must not occur elsewhere in the expression.
        identifier = f"column_{len(names)}"
        while identifier in expression:
            identifier += "_"
        names[identifier] = match["name"].replace("``", "`")
        return f" {identifier} "

    source = _QUOTED.sub(replaced, expression).strip()
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _unsupported(expression) from None
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or (
            isinstance(node, ast.Constant) and not isinstance(node.value, int | float | str)
        ):
            raise _unsupported(expression)
        if isinstance(node, ast.Name):
            # Python normalises identifiers (NFKC), but a column has the name as it is written.
            written = ast.get_source_segment(source, node)
            names.setdefault(node.id, written or node.id)
    if "" in names.values():
        raise _unsupported(expression)
    return Expression(tree, names)


def _unsupported(expression: str) -> SpecError:
    return SpecError(
        f"{expression!r} is not a valid expression over columns. Write it with column names, numbers, quoted text, "
        "comparisons and the operators + - * / and or not, for example `arr_delay > 15`. Put a name that is not a Python "
        "identifier, such as `arrival delay` or `class`, between backticks."
    )
