"""The objects of a batch are freed before the next batch is read."""

from __future__ import annotations

import gc
import weakref

from airflow_mlops.stages.validate.garbage import collected


class Cycle:
    def __init__(self) -> None:
        self.own = self


def test_objects_in_reference_cycles_are_freed_before_the_next_batch():
    frozen, found = gc.get_freeze_count(), []
    gc.disable()
    try:
        for _ in collected(range(3)):
            assert [reference() for reference in found] == [None] * len(found)
            found.append(weakref.ref(Cycle()))
            assert found[-1]() is not None
    finally:
        gc.enable()
    assert len(found) == 3
    assert gc.get_freeze_count() <= frozen
