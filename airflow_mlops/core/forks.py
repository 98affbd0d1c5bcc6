"""Track the modules that a process has inherited from the process from which it was forked.

Airflow forks the process of a task from a worker or from the scheduler. A module may therefore already be imported from
a file that has changed since. The plugin imports this module, so that the parent process has imported it before the
fork.
"""

from __future__ import annotations

import os
import sys
import time

# Start of the parent process, which may have imported a module at any time after this.
_start = time.time()
_inherited: frozenset[str] = frozenset()


def _note() -> None:
    global _inherited
    _inherited = frozenset(sys.modules)


os.register_at_fork(after_in_child=_note)


def may_differ(module: str, file: str) -> bool:
    """Return whether this process may have inherited a module whose source file has changed since it was imported.

    The inode's change time (ctime) is compared, because tools that copy files can set the modification time.

    :param module: name of the module
    :param file: path of its source text
    """
    return module in _inherited and os.stat(file).st_ctime >= _start
