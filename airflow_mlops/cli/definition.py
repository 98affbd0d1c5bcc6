"""What ``airflow mlops`` takes. Every ``airflow`` command imports this, so it imports nothing else of the package."""

from __future__ import annotations

from airflow.cli.cli_config import (
    ARG_OUTPUT,
    ARG_VERBOSE,
    ActionCommand,
    Arg,
    GroupCommand,
    lazy_load_command,
    positive_int,
)

_MODEL = Arg(("model",), help="The registered model")
_STORE = Arg(("--store",), help="URL of the artifact store (default: [mlops] artifacts)")
_CONNECTION = Arg(
    ("--mlflow-conn-id",), default="mlflow_default", help="The Airflow connection to MLflow (default: mlflow_default)"
)
_EVERYWHERE = (_STORE, _CONNECTION, ARG_VERBOSE)

_COMMANDS = (
    ActionCommand(
        name="ledger",
        help="Show who promoted, refused or rolled back which version of a model, and why",
        description="Show the promotion ledger of a model, oldest entry first. The chain of hashes is checked whenever "
        "it is read; --verify also asks MLflow whether the end of it is still there, and says so.",
        func=lazy_load_command("airflow_mlops.cli.commands.ledger"),
        args=(
            _MODEL,
            Arg(("--verify",), action="store_true", help="Check the ledger instead of showing it"),
            ARG_OUTPUT,
            *_EVERYWHERE,
        ),
    ),
    ActionCommand(
        name="rollback",
        help="Make an earlier champion the champion again",
        description="Do what RollbackOperator does: move the alias champion, write the ledger with your user name, and "
        "send the asset event.",
        func=lazy_load_command("airflow_mlops.cli.commands.rollback"),
        args=(
            _MODEL,
            Arg(("--reason",), required=True, help="Why; it goes into the ledger"),
            Arg(
                ("--to-version",),
                type=positive_int(allow_zero=False),
                help="A version that was champion before (default: the one that the present champion replaced)",
            ),
            *_EVERYWHERE,
        ),
    ),
    ActionCommand(
        name="reproduce",
        help="Train a version again from what its MLflow run refers to, register nothing, and compare",
        description="Train a version again in a process of its own, with the data, trainer and seed that its MLflow run "
        "refers to, and compare metrics, code and environment. Exit status 1: something differs.",
        func=lazy_load_command("airflow_mlops.cli.commands.reproduce"),
        args=(
            _MODEL,
            Arg(("version",), type=positive_int(allow_zero=False), help="The version to train again"),
            ARG_OUTPUT,
            *_EVERYWHERE,
        ),
    ),
)


def get_cli_commands() -> list[GroupCommand]:
    """The group ``mlops``."""
    return [GroupCommand(name="mlops", help="Models: ledger, rollback, reproduction", subcommands=_COMMANDS)]
