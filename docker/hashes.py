"""The SHA-256 of the wheels of the lock. The build of an image checks every wheel before it installs one.

``python hashes.py write PYLOCK...`` prints the hashes of the wheels in lock files (PEP 751), for Python 3.11 on Linux.
``python hashes.py check FOLDER hashes.txt`` exits with 1 if a wheel in the folder is not one of these.
``python hashes.py pin REPORT hashes.txt`` prints requirements with the hashes of these wheels, for the packages that pip's
installation report names. pip then installs nothing else (``--require-hashes``).

Builds of torch from an index other than PyPI, such as ``torch-2.13.0+cpu``, are not checked. pip compares them with the
hash that the index names."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

_OTHER_TORCH = re.compile(r"torch-[\w.]+\+", re.IGNORECASE)
# The images have CPython 3.11 on Linux, with glibc, on these processors.
_PYTHON = r"(?:py3|py2\.py3|py3\d+|cp311-cp311|cp311-none|cp3\d+-abi3)(?:-none)?"
_PLATFORM = r"(?:any|(?:many)?linux[\w.]*_(?:x86_64|aarch64))"
_FITS = re.compile(rf"-{_PYTHON}-{_PLATFORM}\.whl$")


def write(*pylocks: str) -> list[str]:
    """Return a sorted line for each wheel: its SHA-256, two spaces and its file name.

    :param pylocks: contents of lock files in the format of PEP 751
    """
    import tomllib

    packages = [package for pylock in pylocks for package in tomllib.loads(pylock)["packages"]]
    wheels = [wheel for package in packages for wheel in package.get("wheels", [])]
    named = {unquote(wheel["url"].rpartition("/")[2]): wheel["hashes"]["sha256"] for wheel in wheels}
    return [f"{named[name]}  {name}" for name in sorted(named) if _FITS.search(name)]


def check(folder: Path, hashes: str) -> list[str]:
    """Return a sentence for each file in ``folder`` that is not a wheel of the lock.

    :param hashes: lines that :func:`write` has returned
    """
    known = _by_name(hashes)
    problems = []
    for file in sorted(folder.iterdir()):
        if _OTHER_TORCH.match(file.name):
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


def pin(report: str, hashes: str) -> list[str]:
    """Return a requirement for each package that pip would install, with the hashes that the lock has of its version.

    Local files, such as the wheel of this package, are left out.

    :param report: pip's installation report, JSON (``pip install --dry-run --report FILE``)
    :param hashes: lines that :func:`write` has returned
    :raises ValueError: the lock has no wheel of a package in this version
    """
    known: dict[tuple[str, str], list[str]] = {}
    for name, digest in _by_name(hashes).items():
        project, version = name.split("-")[:2]
        known.setdefault((_canonical(project), version), []).append(f"--hash=sha256:{digest}")
    lines = []
    for item in json.loads(report)["install"]:
        name, version = _canonical(item["metadata"]["name"]), item["metadata"]["version"]
        if item["download_info"]["url"].startswith("file:"):
            continue
        if (name, version) not in known:
            raise ValueError(
                f"{name} {version} is not in docker/hashes.txt: take packages of the lock, and install others in an image that is "
                "built on this one."
            )
        lines.append(" ".join([f"{name}=={version}", *known[name, version]]))
    return sorted(lines)


def _by_name(hashes: str) -> dict[str, str]:
    return {name: digest for digest, _, name in (line.partition("  ") for line in hashes.splitlines())}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", *pylocks] if pylocks:
            print("\n".join(write(*(Path(pylock).read_text() for pylock in pylocks))))
        case ["check", folder, hashes]:
            found = check(Path(folder), Path(hashes).read_text())
            print("\n".join(found) or f"All wheels in {folder} are those of the lock.")
            sys.exit(bool(found))
        case ["pin", report, hashes]:
            try:
                print("\n".join(pin(Path(report).read_text(), Path(hashes).read_text())))
            except ValueError as error:
                sys.exit(str(error))
        case _:
            sys.exit(__doc__)
