"""The memory that Arrow allocates."""

from __future__ import annotations

import os
import sys

_ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"


def use_malloc() -> None:
    """Let Arrow allocate memory with ``malloc``, unless ``ARROW_DEFAULT_MEMORY_POOL`` is set.

    This applies to this process and to the processes that it starts. Arrow's own allocator is slower: it returns freed
    memory to the system, which clears each page before it allocates the page again.
    """
    if _ALLOCATOR in os.environ:
        return
    # Arrow reads this variable when it is imported.
    os.environ[_ALLOCATOR] = "system"
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.set_memory_pool(arrow.system_memory_pool())
