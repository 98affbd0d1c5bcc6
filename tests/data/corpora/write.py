"""Write the archives in this folder from clones of the projects' repositories.

``python -m tests.data.corpora.write FOLDER``, where FOLDER contains a clone of each repository.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# For each repository: the commit, and the maximum size in bytes of the files taken from each folder.
SOURCES = {
    "parquet-testing": (
        "1a2a75127be06fc0123f03ebd36c966f7beda27d",
        {"LICENSE.txt": 20_000, "bad_data": 80_000, "data": 8192},
    ),
    "arrow-testing": (
        "9cfebfef8982fb8612e0a2c59059752bd32321a3",
        {"LICENSE.txt": 20_000, "data/csv/fuzzing": 1 << 20, "data/parquet/fuzzing": 4096},
    ),
    "csv-spectrum": ("b251546d5ccb79217a61aa8ca623ce573977d7e1", {"package.json": 1000, "csvs": 1000, "json": 1000}),
    "JSONTestSuite": ("1ef36fa01286573e846ac449e8683f8833c5b26a", {"LICENSE": 2000, "test_parsing": 1 << 20}),
}


def write(clones: Path) -> None:
    for name, (commit, folders) in SOURCES.items():
        with zipfile.ZipFile(HERE / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for folder, most in folders.items():
                for line in git(clones / name, "ls-tree", "-r", "-l", commit, folder).decode().splitlines():
                    _, _, sha, size, path = line.split(maxsplit=4)
                    if int(size) <= most and not path.endswith((".md", ".gitattributes")):
                        archive.writestr(
                            zipfile.ZipInfo(path.strip('"')),
                            git(clones / name, "cat-file", "blob", sha),
                            zipfile.ZIP_DEFLATED,
                        )


def git(clone: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(clone), "-c", "core.quotePath=false", *arguments], capture_output=True, check=True
    ).stdout


if __name__ == "__main__":
    write(Path(sys.argv[1]))
