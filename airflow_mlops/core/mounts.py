"""The mounted file systems of this machine, and those of ``/etc/fstab`` that should be mounted. Linux only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

_MOUNTED, _CONFIGURED = Path("/proc/self/mountinfo"), Path("/etc/fstab")


def mount_of(path: Path) -> tuple[str, str]:
    """Return the mount point and the type of the file system of a path; two empty strings if they are unknown."""
    found, real = ("", ""), os.path.realpath(path)
    for line in _lines(_MOUNTED):
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        before, _, after = line.partition(" - ")
        place = _unescaped(before.split()[4])
        # The last mount of a folder hides the earlier ones.
        if len(place) >= len(found[0]) and _contains(place, real):
            found = place, after.split()[0]
    return found


def unmounted(path: Path) -> str | None:
    """Return the mount point in ``/etc/fstab`` that contains a path and is not mounted; ``None`` if there is none.

    File systems with the option ``noauto`` need not be mounted.
    """
    real = os.path.realpath(path)
    deepest = max(filter(lambda place: _contains(place, real), _configured()), key=len, default="/")
    if deepest == "/":
        return None
    mounted = mount_of(path)[0]
    return deepest if mounted and len(deepest) > len(mounted) else None


def _configured() -> Iterator[str]:
    for line in _lines(_CONFIGURED):
        # /dev/sdb1 /data ext4 defaults,noatime 0 2
        fields = line.partition("#")[0].split()
        if len(fields) >= 4 and fields[1].startswith("/") and "noauto" not in fields[3].split(","):
            yield os.path.realpath(_unescaped(fields[1]))


def _lines(file: Path) -> Iterator[str]:
    try:
        yield from file.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
