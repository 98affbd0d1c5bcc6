"""The command ``airflow mlops init``, which proposes the DAGs of a model from its data."""

from __future__ import annotations

import ast
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml

from airflow_mlops import server
from airflow_mlops.cli.command import command, with_flags
from airflow_mlops.core.base import parse
from airflow_mlops.core.counts import counted
from airflow_mlops.core.durations import parse_duration
from airflow_mlops.core.errors import EmptyWindowError, SpecError, listed
from airflow_mlops.scaffold import columns, declared, files, sample, schedules
from airflow_mlops.scaffold.answers import Given
from airflow_mlops.scaffold.proposal import Proposal, propose
from airflow_mlops.scaffold.query import of_table
from airflow_mlops.stages.ingest.spec import IngestSpec

T = TypeVar("T")
_URL = re.compile(r"[a-z][a-z0-9+]*:")


@command
def init(args: Namespace) -> None:
    """Run ``airflow mlops init NAME``, which writes DAGs, a suite and a test into a new folder."""
    files.require_name(args.name)
    folder = Path(args.folder or args.name)
    files.require_new(folder)
    if bool(args.files) == bool(args.table) or bool(args.conn_id) != bool(args.table):
        raise SpecError("Name the data with --files, or with --conn-id and --table.")
    if args.csv and not args.files:
        raise SpecError("--csv describes CSV files, so it needs --files.")
    options = {name: _mapping(name, text) for name in ("csv", "types") if (text := getattr(args, name))}
    if args.table:
        info = server.connection(args.conn_id)
        whole = of_table(args.table, info.conn_type)
        source = {"conn_id": args.conn_id, "sql": whole.select}
    else:
        source = {"files": [url if _URL.match(url) else os.path.abspath(os.path.expanduser(url)) for url in args.files]}
    spec = parse(IngestSpec, {"name": args.name, **source, **options}, "init")
    found = sample.read(spec, server.connection)
    given = Given(
        label=args.label, time=args.time, keys=_names(args.keys), features=_names(args.features),
        exclude=_names(args.exclude), label_delay=_delay(args.label_delay), every=args.every, positive=args.positive,
        timezone=args.timezone,
    )  # fmt: skip
    proposal = propose(found, given, Asked() if sys.stdin.isatty() else Absent())
    if args.table:
        place = files.Place([], args.conn_id, whole.of_window(proposal.time, proposal.keys), options)
        _require_same_rows(args.conn_id, place, proposal, found)
    else:
        types = {
            **options.get("types", {}),
            **declared.types(proposal, options.get("types", {}), options.get("csv", {})),
        }
        place = files.Place(spec.files, options={**options, **({"types": types} if types else {})})
    written = files.write(folder, args.name, place, proposal, found.complete, args.ci)
    found.notes[:] = [with_flags(note, args) for note in found.notes]
    _show(proposal, found, folder, written)


class Asked:
    """Answers the questions of :func:`propose` by asking the person at the terminal."""

    def choose(self, flag: str, question: str, options: Sequence[str]) -> str:
        (name,) = self._asked(question, options, lambda names: len(names) == 1)
        return name

    def choose_several(self, flag: str, question: str, options: Sequence[str]) -> list[str]:
        return self._asked(f"{question} (several: separated by commas)", options, bool)

    def duration(self, flag: str, question: str) -> timedelta:
        return _until_valid(f"{question} (such as 0, 12h or 30D): ", _duration)

    def confirm(self, question: str) -> bool:
        return _until_valid(f"{question} (yes or no): ", _yes)

    def _asked(self, question: str, options: Sequence[str], fits: Callable[[list[str]], bool]) -> list[str]:
        def read(text: str) -> list[str]:
            names = _names(text)
            if not fits(names) or not set(names) <= set(options):
                raise SpecError(f"Write a name from the list: {listed(options)}.")
            return names

        return _until_valid(f"{question}\n  {listed(options)}\n> ", read)


class Absent:
    """Replaces the person if there is no terminal.

    A yes-or-no question is answered with no. Any other question raises an error that names the missing argument.
    """

    def choose(self, flag: str, question: str, options: Sequence[str]) -> str:
        raise _unknown(flag, question, options)

    def choose_several(self, flag: str, question: str, options: Sequence[str]) -> list[str]:
        raise _unknown(flag, question, options)

    def duration(self, flag: str, question: str) -> timedelta:
        raise _unknown(flag, question, ("0", "12h", "30D"))

    def confirm(self, question: str) -> bool:
        return False


def _unknown(flag: str, question: str, options: Sequence[str]) -> SpecError:
    return SpecError(f"{question}? Answer with {flag}, for example one of: {listed(options)}.".replace("??", "?"))


def _until_valid(question: str, read: Callable[[str], T]) -> T:
    while True:
        try:
            return read(input(question))
        except SpecError as error:
            print(error)
        except EOFError:
            raise SpecError("The input has ended before all questions were answered.") from None


def _yes(text: str) -> bool:
    if (answer := text.strip().lower()) not in ("yes", "y", "no", "n"):
        raise SpecError("Write yes or no.")
    return answer.startswith("y")


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _mapping(name: str, text: str) -> dict[str, Any]:
    """Return the value of ``--csv`` or ``--types``.

    :raises SpecError: ``text`` is not a mapping
    """
    try:
        # As error messages write it, such as {'sep': '\t'}.
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError:
            found = None
    if not isinstance(found, dict):
        raise SpecError(f"--{name} must be a mapping in YAML or JSON, such as \"{{'a': 'b'}}\", but it is {text!r}.")
    return found


def _delay(text: str | None) -> timedelta | None:
    return None if text is None else _duration(text)


def _duration(text: str) -> timedelta:
    try:
        found = timedelta(0) if text.strip() == "0" else parse_duration(text)
    except OverflowError:
        found = None
    if not isinstance(found, timedelta):
        raise SpecError(f"{text!r} is not a duration. Write it as 0, 12h or 30D.")
    return found


def _require_same_rows(conn_id: str, place: files.Place, proposal: Proposal, found: sample.Sample) -> None:
    """Check that the query of a window finds the right rows.

    Two windows are checked: one with all rows of the sample, and one in the middle.

    If the time column contains text, the database compares the bounds of the window as text. It can then miss rows, or
    find rows of neighbouring windows.

    :raises SpecError: the query finds other rows
    """
    if not found.complete:
        return
    times = proposal.columns[proposal.time].local_times(proposal.timezone)
    middle = times.sort()[len(times) // 2].as_py().replace(tzinfo=proposal.first.tzinfo)
    for first, last in ((proposal.first, proposal.last), (middle, middle)):
        begin, end = schedules.bounds(proposal.every, first, last)
        source = {
            "conn_id": conn_id,
            "sql": place.query,
            "window": f"{begin.isoformat()}/{end.isoformat()}",
            **place.options,
        }
        spec = parse(IngestSpec, {"name": "rows", **source}, "init")
        expected = _inside(times, begin, end)
        try:
            rows = columns.Column(proposal.time, sample.read(spec, server.connection).table[proposal.time])
        except EmptyWindowError:
            rows = None
        number = 0 if rows is None else len(rows.values)
        right = 0 if rows is None else _inside(rows.local_times(proposal.timezone), begin, end)
        if number != expected or right != expected:
            others = f", and {counted(number - right, 'row')} of other windows," if number > right else ""
            raise SpecError(
                f"The database finds {right:,} of {expected:,} rows{others} when it compares column {proposal.time!r} with the bounds "
                "of a window, because the column contains text or numbers. Create a view in which the column is a time, or text in "
                "UTC such as 2024-03-05 06:30:00, and name it with --table."
            )


def _inside(times: Any, begin: datetime, end: datetime) -> int:
    """Return the number of local times in a window."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bounds = [pa.scalar(one.replace(tzinfo=None), times.type) for one in (begin, end)]
    return int(pc.sum(pc.and_(pc.greater_equal(times, bounds[0]), pc.less(times, bounds[1]))).as_py() or 0)


def _show(proposal: Proposal, found: sample.Sample, folder: Path, written: list[Path]) -> None:
    rows = f"{len(found.table):,} rows" if found.complete else f"the first {len(found.table):,} rows"
    print(f"Read {rows} from {proposal.first:%Y-%m-%d} to {proposal.last:%Y-%m-%d} ({proposal.timezone}).")
    for note in found.notes:
        print(f"  {note}")
    positive = f", positive class {proposal.positive}" if proposal.positive is not None else ""
    print(f"Label: {proposal.label} ({proposal.task}{positive}). Time: {proposal.time}. Keys: {listed(proposal.keys)}.")
    print(f"Features: {listed(proposal.features)}.")
    for name, reason in proposal.excluded.items():
        print(f"  Not a feature: {name} ({reason})")
    print(f"Windows: one {proposal.every}, about {proposal.window_rows:,} rows each.")
    print(f"Wrote {listed(str(folder / path) for path in written)}.")
    print(f"Next: {folder / 'README.md'}")
