"""The SHA-256 of the wheels of the lock. The build of an image checks every wheel before it installs one.

``python hashes.py write pylock.toml`` prints the hashes of the wheels in a lock file (PEP 751), for Python 3.11 on Linux.
``python hashes.py check FOLDER hashes.txt`` exits with 1 if a wheel in the folder is not one of these.

Not checked are torch and the CUDA libraries that it requires. Each index (PyPI, download.pytorch.org) has its own builds of
them, and the index is an argument of the build.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from urllib.parse import unquote

_OF_TORCH = re.compile(r"(torch|triton|nvidia_\w+|cuda_\w+)-", re.IGNORECASE)
# The images have CPython 3.11 on Linux, with glibc, on these processors.
_PYTHON = r"(?:py3|py2\.py3|py3\d+|cp311-cp311|cp311-none|cp3\d+-abi3)(?:-none)?"
_PLATFORM = r"(?:any|(?:many)?linux[\w.]*_(?:x86_64|aarch64))"
_FITS = re.compile(rf"-{_PYTHON}-{_PLATFORM}\.whl$")


def write(pylock: str) -> list[str]:
    """Return a sorted line for each wheel: its SHA-256, two spaces and its file name.

    :param pylock: content of a lock file in the format of PEP 751
    """
    import tomllib

    wheels = [wheel for package in tomllib.loads(pylock)["packages"] for wheel in package.get("wheels", [])]
    named = {unquote(wheel["url"].rpartition("/")[2]): wheel["hashes"]["sha256"] for wheel in wheels}
    return [f"{named[name]}  {name}" for name in sorted(named) if _FITS.search(name) and not _OF_TORCH.match(name)]


def check(folder: Path, hashes: str) -> list[str]:
    """Return a sentence for each file in ``folder`` that is not a wheel of the lock.

    :param hashes: lines that :func:`write` has returned
    """
    known = {name: digest for digest, _, name in (line.partition("  ") for line in hashes.splitlines())}
    problems = []
    for file in sorted(folder.iterdir()):
        if _OF_TORCH.match(file.name):
            continue
        if file.name not in known:
            problems.append(
                f"{file.name} is not in docker/hashes.txt: add its package to pyproject.toml and run `make lock`."
            )
        elif hashlib.sha256(file.read_bytes()).hexdigest() != known[file.name]:
            problems.append(
                f"{file.name} has another SHA-256 than in docker/hashes.txt: the index has changed the file."
            )
    return problems


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", pylock]:
            print("\n".join(write(Path(pylock).read_text())))
        case ["check", folder, hashes]:
            found = check(Path(folder), Path(hashes).read_text())
            print("\n".join(found) or f"All wheels in {folder} are those of the lock.")
            sys.exit(bool(found))
        case _:
            sys.exit(__doc__)
