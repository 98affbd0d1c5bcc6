"""Identify the process that writes a log, so that a later process on the same machine can prove that it has ended.

The names of a machine and of a folder prove nothing: containers on different machines may have the same names. A PID
identifies a process only in the same PID namespace, and only until the machine is started again.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow_mlops.core.base import Model

_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"


class Process(Model):
    """A process of a machine.

    :param boot: random id that the kernel chose when the machine was started
    :param namespace: PID namespace of the process, such as ``pid:[4026531836]``
    :param pid: PID of the process in this namespace
    """

    boot: str
    namespace: str
    pid: int

    def has_ended(self) -> bool:
        """Return whether it is certain that the process no longer exists.

        The result is false if the machine was started again, or if this process is in another container or on another
        machine.
        """
        here = current()
        if here is None or (here.boot, here.namespace) != (self.boot, self.namespace):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            # The process exists and belongs to another user.
            return False
        return False


def current() -> Process | None:
    """Return this process; ``None`` if the operating system is not Linux."""
    try:
        return Process(boot=_BOOT.read_text().strip(), namespace=os.readlink(_NAMESPACE), pid=os.getpid())
    except OSError:
        return None
