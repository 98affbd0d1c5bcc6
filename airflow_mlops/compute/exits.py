"""Explain the exit status of a process that failed without an error message."""

from __future__ import annotations

import signal

# Shells and containers report a process that a signal ended with this number plus the number of the signal.
_SHELL = 128
_CRASHED = (
    "A library that is not written in Python crashed. The log above shows where, if Python could still write it; compare "
    "the versions of the libraries with those of an environment that works"
)
_SIGNALS = {
    "SIGKILL": "The kernel does this when memory runs out. Check the memory of the machine or of its container at that "
    "time, and search the log of the kernel (`dmesg`) for `Out of memory`",
    "SIGTERM": "A user, the cluster or a restart of the worker ended the process. Check the log of the worker at that "
    "time",
    "SIGINT": "A user or a restart of the worker ended the process. Check the log of the worker at that time",
    "SIGHUP": "The worker that started the process ended. Check the log of the worker at that time",
    "SIGSEGV": _CRASHED,
    "SIGBUS": f"{_CRASHED}, and check whether the disk or the shared memory (`/dev/shm`) is full",
    "SIGABRT": _CRASHED,
    "SIGFPE": _CRASHED,
    "SIGILL": "A library was built for another type of processor. Install a build of the library for this machine",
    "SIGXCPU": "The process used more CPU time than its limit. Check `ulimit -t` on the worker",
    "SIGXFSZ": "The process wrote a larger file than its limit. Check `ulimit -f` on the worker",
}
_STATUSES = {
    126: "The file cannot be executed. Check its permissions",
    127: "The shell did not find a command. Check `PATH` and the last line of output",
}


def explain(status: int) -> str:
    """Explain how a process ended and what to check, as the predicate of a sentence that begins with ``The process``.

    :param status: exit status other than 0. If a signal ended the process, the status can be the negative number of the
        signal, as in :mod:`subprocess`
    """
    number = -status if status < 0 else status - _SHELL
    try:
        name = signal.Signals(number).name if status < 0 or status > _SHELL else ""
    except ValueError:
        name = f"{number}" if status < 0 else ""
    if name:
        hint = _SIGNALS.get(name, "Check the logs of the worker and of the kernel (`dmesg`) at that time")
        return f"was ended by the signal {name}. {hint}."
    hint = _STATUSES.get(status, "See the lines of the task's log above this error")
    return f"ended with exit status {status} and without an error message. {hint}."
