"""Lengths of text in MySQL and MariaDB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Engine


def count_characters(engine: Engine) -> None:
    """Let an engine count the characters of a text, as other databases do.

    Great Expectations calls ``LENGTH``, which counts bytes in MySQL: 2 for ``é``.
    """
    dialect: Any = engine.dialect

    class Compiler(dialect.statement_compiler):  # type: ignore[misc]
        def visit_length_func(self, function: Any, **kw: Any) -> str:
            return f"CHAR_LENGTH{self.function_argspec(function, **kw)}"

    dialect.statement_compiler = Compiler
