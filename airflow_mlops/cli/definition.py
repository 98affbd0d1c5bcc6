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
_PREDICTIONS = Arg(("--predictions",), help="Name of the dataset of predictions (default: MODEL_predictions)")
_OUTCOMES = Arg(("--outcomes",), help="Name of the dataset of predictions with labels (default: MODEL_outcomes)")
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
    ActionCommand(
        name="predictions",
        help="Show what a model predicted: how many, how fast, from what, and what really happened",
        description="Answer from the prediction log and the outcomes joined to it: how many predictions, how fast, which "
        "inputs, which features, which results, and what really happened. --files lists the Parquet files that hold the "
        "present predictions and nothing else.",
        func=lazy_load_command("airflow_mlops.cli.commands.predictions"),
        args=(
            _MODEL,
            Arg(("--window",), help="Only windows inside this one, as in 2013-04 or 2013-01..2013-03"),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--files",), action="store_true", help="List the files instead, one URL a line"),
            Arg(("--json",), action="store_true", help="Print JSON, with every digit"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="purge",
        help="Delete the rows of old predictions, and of what labels were joined to",
        description="Do what PurgePredictionsOperator does.",
        func=lazy_load_command("airflow_mlops.cli.commands.purge"),
        args=(
            _MODEL,
            Arg(
                ("--older-than",),
                required=True,
                help="How old, as in 90D: since the window's end, or since scoring if later",
            ),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--dry-run",), action="store_true", help="Only say what would be deleted"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
)


def get_cli_commands() -> list[GroupCommand]:
    """The group ``mlops``."""
    return [
        GroupCommand(name="mlops", help="Models: ledger, rollback, reproduction, predictions", subcommands=_COMMANDS)
    ]
