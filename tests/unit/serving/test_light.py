"""Modules whose code runs only when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from airflow_mlops.serving.light import postpone

postpone("library.heavy")
import library
from library import heavy
import library.heavy.part

print("imported", library.heavy is heavy)
print(heavy.VALUE, heavy.missing_is_known, hasattr(heavy, "missing"))
"""


def test_a_postponed_module_runs_when_it_is_used(tmp_path: Path) -> None:
    heavy = tmp_path / "library" / "heavy"
    heavy.mkdir(parents=True)
    (heavy.parent / "__init__.py").write_text("from library import heavy\n")
    (heavy / "__init__.py").write_text("print('heavy runs')\nVALUE, missing_is_known = 7, True\n")
    (heavy / "part.py").write_text("print('part runs')\n")
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert found.stdout.splitlines() == ["part runs", "imported True", "heavy runs", "7 True False"]
