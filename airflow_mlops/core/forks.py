"""Find modules whose imported code may be older than their source file.

Airflow forks the process of a task from a worker or from the scheduler. The process inherits the modules that its
parent has imported, and their files may have changed since. The plugin imports this module, so that the parent process
has imported it before the fork.
"""

from __future__ import annotations

import os
import sys
import time

# Time at which the parent process started. The parent process may have imported a module at any time afterwards.
_start = time.time()
_inherited: frozenset[str] = frozenset()


def _note() -> None:
    global _inherited
    _inherited = frozenset(sys.modules)


os.register_at_fork(after_in_child=_note)


def may_differ(module: str, file: str) -> bool:
    """Return whether the code of an inherited module may differ from the code in its source file.

    This is the case if the file has changed since the parent process started. The inode's change time (ctime) is
    compared, because tools that copy files can set the modification time.

    :param module: name of the module
    :param file: path of the module's source file
    """
    return module in _inherited and os.stat(file).st_ctime >= _start
