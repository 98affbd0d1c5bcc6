"""The memory that Arrow allocates."""

from __future__ import annotations

import os
import sys

_ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"


def use_malloc() -> None:
    """Let Arrow allocate memory with ``malloc``, in this process and in those that it starts, unless
    ``ARROW_DEFAULT_MEMORY_POOL`` is set.

    Arrow's own allocator gives freed memory back to the system, and the system clears each page that it gives out again.
    """
    if _ALLOCATOR in os.environ:
        return
    # Arrow reads this variable when it is imported.
    os.environ[_ALLOCATOR] = "system"
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.set_memory_pool(arrow.system_memory_pool())
