"""The allocator of Arrow."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IMPORTED = """
import sys
from airflow_mlops.core.arrow_memory import use_malloc
{before}
use_malloc()
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""


@pytest.mark.parametrize("before", ["", "import pyarrow"], ids=["before the import", "after the import"])
@pytest.mark.parametrize("wanted", [None, "mimalloc"])
def test_arrow_uses_malloc_unless_the_user_wants_another_allocator(before, wanted):
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    if wanted:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = wanted
    code = IMPORTED.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (wanted or "system")
