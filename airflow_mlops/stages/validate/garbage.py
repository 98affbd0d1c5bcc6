"""Free the DataFrames of batches that were validated.

Great Expectations leaves DataFrames with the rows that meet a condition in reference cycles. Python frees them when it
collects all objects, which it rarely does in a process with as many objects as Great Expectations has.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def collected(batches: Iterable[T]) -> Iterator[T]:
    """Yield batches, and collect the objects in reference cycles after each of them.

    Only objects that were created meanwhile are collected, which takes little time.
    """
    gc.freeze()
    try:
        for batch in batches:
            yield batch
            # The batch is not kept while the next one is read.
            del batch
            gc.collect()
    finally:
        gc.unfreeze()
