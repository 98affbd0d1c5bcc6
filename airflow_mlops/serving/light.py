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
    """Make later imports of pandas fail.

    If pandas is installed, pyarrow imports it for the first array from Python values. The import takes 60 MB of memory
    and, in the middle of a request, a second.
    """
    sys.meta_path.insert(0, _NoPandas())
