"""Print the requirements of extras of this package, without Airflow: ``python requirements.py pyproject.toml EXTRA,EXTRA``.

The package depends on Airflow, but the runner image does not contain it. So pip cannot install the package with its
dependencies, and this script reads them from ``pyproject.toml``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

_OWN = re.compile(r"^airflow-mlops\[(?P<extras>[\w,-]+)\]$")


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the sorted requirements of the package and its ``extras``, without Airflow and its providers.

    :raises KeyError: an extra does not exist
    """
    project = tomllib.loads(pyproject.read_text())["project"]
    found = set(project["dependencies"])
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            own = _OWN.match(requirement)
            if own:
                waiting += own["extras"].split(",")
            else:
                found.add(requirement)
    return sorted(item for item in found if not item.startswith("apache-airflow"))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2].split(","))))
