"""The code and the commands in the documentation work unchanged."""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from airflow.cli.cli_parser import get_parser
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, XComArg

from airflow_mlops import compute, notifications, operators, sensors, trainers
from airflow_mlops.cli.definition import get_cli_commands
from airflow_mlops.compute import Pod
from airflow_mlops.core.base import parse
from airflow_mlops.trainers import Float, SklearnTrainer

ROOT = Path(__file__).parents[3]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """The table of docs/your-own-data.md, as a connection."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("docs/your-own-data.md")[0], "your-own-data", "exec"), {})
    return {"shop": json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "shop.db")})}


@pytest.mark.slow
@pytest.mark.plots
def test_the_dag_in_ten_lines(run_dag, mlflow_connection, shop):
    dag, *_ = blocks("README.md")
    outcome = run_dag(dag.replace('"churn"', '"churn_in_ten_lines"'), connections=shop)
    assert set(outcome.states().values()) == {"success"}, outcome.states()
    assert outcome.xcom("promote")["promoted"]


@pytest.mark.slow
def test_hyperparameters_from_the_trigger_form(run_dag, client, shop):
    (dag,) = (block for block in blocks("docs/operators/train.md") if "churn_by_hand" in block)
    conf = {"max_iter": 7, "learning_rate": 0.5, "interaction_cst": "pairwise", "seed": 3}
    for asked, expected in (
        (conf, conf),
        ({}, {"max_iter": 50, "learning_rate": 0.1, "interaction_cst": None, "seed": 0}),
    ):
        outcome = run_dag(dag, conf=asked, connections=shop)
        assert outcome.state == "success", outcome.states()
        used = client.get_run(outcome.xcom("train")["run_id"]).data.params
        assert {name: used[name] for name in expected} == {name: str(value) for name, value in expected.items()}


PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
# Objects that the pages use without defining them, by name.
NAMES = {
    "gpu": lambda: Pod(image="registry.example/runner:cuda", gpus=1),
    "GPU_IMAGE": lambda: "registry.example/runner:cuda",
    "COMMIT": lambda: "4f2a1c9",
    "trainer": lambda: SklearnTrainer("sklearn.linear_model.LogisticRegression"),
    "space": lambda: {"C": Float(0.01, 10, log=True)},
}
REFERENCE = {"name": "rows", "id": "0" * 64, "rows": 1}
STAND_INS = {
    "candidates": {"model": "m", "version": 1},
    "columns": ["x"],
    "dataset": REFERENCE,
    "entities": REFERENCE,
    "evidence": REFERENCE,
    "predictions": REFERENCE,
    "labels": REFERENCE,
    "sources": REFERENCE,
}
ATTRIBUTES = {"label": "label_column"}
TEMPLATES = (
    (r"{{ *(mlops_request|params)\.window.*?}}", "2013-04"),
    (r"{{ *data_interval_end.*?}}|{{ *dag_run.run_after.*?}}", "2013-05-01"),
    (r"{{ *(data_interval_start|macros\.ds_add|ds|logical_date).*?}}", "2013-04-01"),
    (r"{{ *partition_key.*?}}", "2013-04"),
    (r"{{.*?}}", "1"),
)


def public(name: str) -> object | None:
    """An operator, a sensor, a trainer or another value for a DAG file, by its name."""
    for module in (operators, sensors, trainers, compute, notifications):
        if name in getattr(module, "__all__", ("Notify",)):
            return getattr(module, name)
    return None


class Fragment(dict):
    """The names of a block that is not a whole file: those of the package, and tasks of the same DAG."""

    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        if (found := public(name)) is not None:
            return found
        self[name] = NAMES[name]() if name in NAMES else EmptyOperator(task_id=f"the_{name}")
        return self[name]


def tasks_of(block: str, folder: Path) -> list:
    """Parse a block as Airflow parses a DAG file, and return its tasks; none if it defines no operators."""
    if "with DAG(" in block and "import DAG" in block:
        file = folder / "block.py"
        file.write_text(block)
        bag = DagBag(file)
        assert not bag.import_errors, bag.import_errors
        assert bag.dags
        return [task for dag in bag.dags.values() for task in dag.tasks]
    if not re.search(r"\b\w+(Operator|Sensor)\b", block) and not re.search(
        r"\b(Sklearn|Torch|Function)Trainer\(", block
    ):
        return []
    with DAG("block", schedule=None, default_args={"model": "m"}) as dag:
        exec(compile(block, "block", "exec"), {}, Fragment())
    return [task for task in dag.tasks if task.__module__.startswith("airflow_mlops")]


def given(field: str, value: object) -> object:
    """The value of a parameter as it is when the task runs."""
    if isinstance(value, XComArg):
        return STAND_INS.get(field)
    if isinstance(value, str):
        for template, text in TEMPLATES:
            value = re.sub(template, text, value)
        return value
    if isinstance(value, dict):
        return {name: given(field, item) for name, item in value.items()}
    return [given(field, item) for item in value] if isinstance(value, list) else value


def check_spec(task) -> None:
    """Validate the parameters of a task as its worker does, as far as the page says what they are."""
    values = {name: getattr(task, ATTRIBUTES.get(name, name)) for name in task.parameters}
    if isinstance(values.get("trainer"), XComArg) or "verdict" in values:
        return
    for name, value in values.items():
        is_file = isinstance(value, str) and value.endswith((".yaml", ".sql"))
        setattr(task, ATTRIBUTES.get(name, name), None if is_file else given(name, value))
    parse(task.spec, task.build_spec({"partition_key": "2013-04"}), f"Task {task.task_id!r}")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_python_in_the_pages_works(page, tmp_path):
    for block in blocks(page):
        for node in ast.walk(ast.parse(block, page)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("airflow"):
                module = import_module(node.module)
                for name in node.names:
                    assert hasattr(module, name.name), f"{node.module} has no {name.name}"
        for task in tasks_of(block, tmp_path):
            if isinstance(task, operators.base.StepOperator):
                check_spec(task)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/operators/")])
def test_the_table_of_parameters_names_every_parameter_and_no_other(page):
    text = (ROOT / page).read_text()
    operator = getattr(operators, re.match(r"# (\w+)", text)[1])
    table = re.search(r"\| Parameter \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text)[1]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    common = set(operators.base.StepOperator.parameters)
    assert named | common == set(operator.parameters)


def calls(text: str) -> Iterator[ast.Call]:
    """The calls in the code within sentences and tables."""
    for code in re.findall(r"(?<!`)`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        with contextlib.suppress(SyntaxError):
            yield from (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))


def test_every_parameter_in_the_text_exists():
    checked = 0
    for page in PAGES:
        for call in calls((ROOT / page).read_text()):
            kind = public(getattr(call.func, "id", ""))
            if kind is not None:
                known = inspect.signature(BaseOperator).parameters.keys() if hasattr(kind, "parameters") else ()
                known = {*getattr(kind, "parameters", inspect.signature(kind).parameters), *known}
                assert {keyword.arg for keyword in call.keywords} <= known, f"{page}: {ast.unparse(call)}"
                checked += len(call.keywords)
    assert checked > 20


def commands(page: str) -> list[list[str]]:
    text = (ROOT / page).read_text()
    shell = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in shell.splitlines() if line.lstrip().startswith("airflow ")]
    return [words[1:] for words in lines]


def test_every_airflow_command_in_the_pages_is_one():
    parser = get_parser()
    found = [(page, words) for page in PAGES for words in commands(page)]
    assert {words[1] for _, words in found if words[0] == "mlops"} > {"ledger", "rollback", "datasets", "backtest"}
    for page, words in found:
        try:
            assert parser.parse_args(words).func
        except SystemExit:
            pytest.fail(f"{page}: airflow {' '.join(words)}")


def test_every_option_of_our_commands_in_the_text_exists():
    (group,) = get_cli_commands()
    options = {command.name: {flag for arg in command.args for flag in arg.flags} for command in group.subcommands}
    for page in PAGES:
        for command, rest in re.findall(r"`airflow mlops (\w+)([^`]*)`", (ROOT / page).read_text()):
            assert set(re.findall(r"--[\w-]+", rest)) <= options[command], f"{page}: {command}{rest}"
