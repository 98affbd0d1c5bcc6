"""Keep pandas out of a process that does not need it."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not used in this process.", name=name)


def without_pandas() -> None:
    """Let later imports of pandas fail.

    pyarrow imports pandas, if it is installed, to make the first array from Python values. That takes 60 MB, and in the middle of a
    request a second.
    """
    sys.meta_path.insert(0, _NoPandas())
