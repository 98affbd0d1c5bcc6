"""Write the proposed files into a new or empty folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateSyntaxError

from airflow_mlops import __version__
from airflow_mlops.core.errors import SpecError
from airflow_mlops.scaffold import schedules, suite
from airflow_mlops.scaffold.proposal import Proposal, wait_days

CI = Literal["github", "gitlab"]
# If a list would need a line of at least this many characters, each of its texts is written on its own line.
_LINE = 100
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PIPELINES: dict[CI, tuple[str, str]] = {
    "github": (".github/workflows/dags.yml", "github.yml.jinja"),
    "gitlab": (".gitlab-ci.yml", "gitlab.yml.jinja"),
}


@dataclass(frozen=True)
class Place:
    """The source of the rows.

    :param files: URLs of files; empty for a table
    :param conn_id: id of the Airflow connection to the database; ``None`` for files
    :param query: query that selects the rows of a window; ``None`` for files
    :param options: further parameters of IngestOperator: ``csv`` and ``types``
    """

    files: list[str]
    conn_id: str | None = None
    query: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _literal(value: str | list[str]) -> str:
    """Return text or a list of texts as Python code. JSON and Python write both in the same way."""
    line = _python(value)
    return line if len(line) < _LINE or isinstance(value, str) else _python(value, indent=4)


def _python(value: Any, indent: int | None = None) -> str:
    for text in [value] if isinstance(value, str) else value:
        _require_constant(text)
    # Some invisible characters reverse the code that follows them.
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(one if one == "\n" or one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _require_constant(text: str) -> None:
    """Check that a text stays the same when Airflow renders it as a Jinja template, like all parameters of operators.

    :raises SpecError: the text contains ``{{``, ``{%`` or ``{#``, or line endings that Jinja changes
    """
    try:
        tokens = list(Environment(autoescape=True).lex(text))
    except TemplateSyntaxError:
        tokens = []
    if any(kind != "data" for _, kind, _ in tokens) or "".join(value for _, _, value in tokens) != text:
        raise SpecError(
            f"{text!r} cannot be written into the DAGs, because Airflow would render it as a Jinja template and change it. "
            "Rename the column, the value or the file in the source, or leave the column out with --exclude."
        )


def _nested(value: Any) -> str:
    """Return a mapping, and the values in it, as Python code."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_nested(name)}: {_nested(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return _python(value) if isinstance(value, str) else repr(value)


def _plain(name: str) -> str:
    """Return a column name for a comment or a page. A name that could end a line or a code span is quoted."""
    return name if name.isprintable() and "`" not in name else repr(name).replace("`", "'")


def require_name(name: str) -> None:
    """Check that a name can be used for a model, its DAGs and a Python module.

    :raises SpecError: the name cannot be used
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot be the name of a model and its DAGs: use lower-case letters, digits and _, such as churn."
        )


def require_new(folder: Path) -> None:
    """Check that a folder does not exist or is empty.

    :raises SpecError: ``folder`` contains files, or is a file
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder} exists and is not empty. Choose another folder with --folder, or remove it.")


def write(folder: Path, name: str, place: Place, proposal: Proposal, complete: bool, ci: CI | None) -> list[Path]:
    """Write the files of the proposed DAGs.

    :param folder: folder for the files
    :param name: name of the model
    :param place: the source of the rows
    :param proposal: the proposal
    :param complete: whether the sample of the proposal contains all rows of the data
    :param ci: CI system for which a pipeline is written; ``None`` for no pipeline
    :return: paths of the files, relative to ``folder``
    :raises SpecError: a name or a value contains a Jinja template
    """
    every = proposal.every
    begin, end = schedules.bounds(every, proposal.first, proposal.last)
    facts: dict[str, Any] = {
        "name": name,
        "place": place,
        "proposal": proposal,
        "delay": wait_days(proposal.delay),
        "every": every,
        "key_format": schedules.KEY_FORMATS[every],
        "ingestion": schedules.ingestion(every),
        "monitoring": schedules.monitoring(every, wait_days(proposal.delay)),
        "first_key": schedules.key(every, proposal.first),
        "last_key": schedules.last_complete(every, proposal.first, proposal.last),
        "first_minute": begin.isoformat(timespec="minutes"),
        "last_minute": (end - timedelta(minutes=1)).isoformat(timespec="minutes"),
        "version": __version__,
    }
    environment = Environment(
        loader=PackageLoader("airflow_mlops.scaffold"), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True, autoescape=False,  # noqa: S701 - Python, Markdown and YAML
    )  # fmt: skip
    environment.filters |= {"python": _literal, "nested": _nested, "plain": _plain}
    rendered = {
        f"{name}.py": "dags.py.jinja",
        f"tests/test_{name}.py": "test_dags.py.jinja",
        "README.md": "README.md.jinja",
        "requirements.txt": "requirements.txt.jinja",
    }
    if ci:
        path, template = _PIPELINES[ci]
        rendered[path] = template
    contents = {path: environment.get_template(template).render(facts) for path, template in rendered.items()}
    # Airflow would read the tests as DAG files.
    contents[".airflowignore"] = "tests/\n"
    contents[f"suites/{name}.json"] = (
        json.dumps(suite.propose(name, proposal, complete), indent=2, ensure_ascii=False) + "\n"
    )
    for path, text in contents.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return sorted(map(Path, contents))
