"""Parser of expressions over columns. The syntax is Python without function calls.

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
# Quoted text, in which a backtick is an ordinary character; or a name between backticks.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<name>(?:[^`]|``)*)`""", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    :param tree: Python's syntax tree of the expression. Each name between backticks is replaced by a new identifier
    :param names: name of the column, by identifier in the tree
    """

    tree: ast.expr
    names: dict[str, str]

    @property
    def texts(self) -> list[str]:
        """Return the quoted texts that the expression compares with columns."""
        nodes = ast.walk(self.tree)
        return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]

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
    _check_quotes(tree, expression)
    return Expression(tree, names)


def _check_quotes(tree: ast.expr, expression: str) -> None:
    """Check that quoted text is used as a value. In SQL, double quotes would mark the name of a column.

    :raises SpecError: text is an operand of an operator other than a comparison, or is compared only with other values
    """
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        raise _quotes(expression, tree.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            wrong = [] if any(map(_has_columns, operands)) else operands
        elif isinstance(node, ast.BinOp):
            wrong = [node.left, node.right]
        elif isinstance(node, ast.BoolOp):
            wrong = node.values
        else:
            wrong = [node.operand] if isinstance(node, ast.UnaryOp) else []
        for operand in wrong:
            if isinstance(operand, ast.Constant) and isinstance(operand.value, str):
                raise _quotes(expression, operand.value)


def _has_columns(node: ast.expr) -> bool:
    return any(isinstance(item, ast.Name) for item in ast.walk(node))


def quotes_hint(text: str) -> str:
    """Return two sentences that explain the quotes of text and of column names, with ``text`` as the example."""
    quoted = text.replace("`", "``")
    return f"Text in quotes is a value. To use the column {text!r}, write `{quoted}` with backticks."


def _quotes(expression: str, text: str) -> SpecError:
    return SpecError(f"The expression {expression!r} uses the quoted text {text!r} like a column. {quotes_hint(text)}")


def _unsupported(expression: str) -> SpecError:
    return SpecError(
        f"{expression!r} is not a valid expression over columns. Write it with column names, numbers, quoted text, "
        "comparisons and the operators + - * / and or not, for example `arr_delay > 15`. Put a name that is not a Python "
        "identifier, such as `arrival delay` or `class`, between backticks."
    )
