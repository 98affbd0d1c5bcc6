"""Fuzzes the ingestion of files.

``python -m tests.fuzz --seconds 3600`` damages valid CSV, JSON and Parquet files at random and ingests them. Each file must
be read, or refused in one line by an error that is not retried, within limits of CPU time and memory. The rows of CSV
files and JSON lines are compared with those that the standard library reads. Cases that fail are printed;
``python -m tests.fuzz --seed SEED --case NUMBER`` runs one of them again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.support.damaged import Case, case, disagreement
from tests.support.reader import Outcome, Reader

CPU_S, MEMORY_MB = 10, 1024


@dataclass
class Findings:
    """The result of a run.

    :param outcomes: number of cases by outcome: ``read``, ``read and compared``, or the class of the error
    :param failures: what went wrong, by number of the case
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)


def fuzz(seed: int, numbers: Iterator[int], seconds: float = float("inf")) -> Findings:
    """Ingest the cases of a seed, until the time is over."""
    findings, deadline = Findings(), time.monotonic() + seconds
    with Reader(CPU_S, MEMORY_MB) as reader, tempfile.TemporaryDirectory() as folder:
        for number in numbers:
            if time.monotonic() > deadline:
                break
            found = case(seed, number)
            path = Path(folder) / found.name
            path.write_bytes(found.damaged)
            outcome = reader.ingest(path, **found.options)
            read = "read and compared" if found.is_comparable else "read"
            findings.outcomes[read if outcome.count is not None else outcome.error] += 1
            if problem := _problem(found, outcome):
                findings.failures[number] = problem
                print(f"--seed {seed} --case {number}: {problem}", flush=True)
    return findings


def _problem(found: Case, outcome: Outcome) -> str | None:
    if not outcome.is_read_or_refused:
        return f"{outcome.error}: {outcome.message}"
    if outcome.cpu_s > CPU_S:
        return f"took {outcome.cpu_s:.0f} s of CPU time"
    return disagreement(found, outcome.rows) if outcome.count is not None else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the ingestion of files.")
    parser.add_argument("--seconds", type=float, default=3600, help="time of the run (default: an hour)")
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="seed of the cases (default: another each time)"
    )
    parser.add_argument("--case", type=int, help="run only the case of this number")
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(case(arguments.seed, arguments.case))
    numbers = count() if arguments.case is None else iter([arguments.case])
    findings = fuzz(arguments.seed, numbers, arguments.seconds)
    print(f"{findings.outcomes.total():,} cases of seed {arguments.seed}: {dict(findings.outcomes.most_common())}")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
