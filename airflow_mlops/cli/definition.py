"""The commands and arguments of ``airflow mlops``.

Every ``airflow`` command imports this module, so it imports no other module of the package.
"""

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

_MODEL = Arg(("model",), help="Name of the registered model")
_STORE = Arg(("--store",), help="URL of the artifact store (default: [mlops] artifacts)")
_CONNECTION = Arg(
    ("--mlflow-conn-id",), default="mlflow_default", help="Airflow connection to MLflow (default: mlflow_default)"
)
_PREDICTIONS = Arg(("--predictions",), help="Name of the dataset of predictions (default: MODEL_predictions)")
_OUTCOMES = Arg(("--outcomes",), help="Name of the dataset of predictions with labels (default: MODEL_outcomes)")
_COMMON = (_STORE, _CONNECTION, ARG_VERBOSE)

_COMMANDS = (
    ActionCommand(
        name="ledger",
        help="Show the promotions, refusals and rollbacks of a model: who, when and why",
        description="Show the promotion ledger of a model, oldest entry first. Reading the ledger always verifies its chain "
        "of hashes. --verify also compares it with MLflow, which shows whether the last entries are missing.",
        func=lazy_load_command("airflow_mlops.cli.commands.ledger"),
        args=(
            _MODEL,
            Arg(("--verify",), action="store_true", help="Verify the ledger instead of showing it"),
            ARG_OUTPUT,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="rollback",
        help="Make an earlier champion the champion again",
        description="Move the alias champion back to an earlier version, record that in the ledger with your user name, and send "
        "the asset event, as RollbackOperator does.",
        func=lazy_load_command("airflow_mlops.cli.commands.rollback"),
        args=(
            _MODEL,
            Arg(("--reason",), required=True, help="The reason; it is recorded in the ledger"),
            Arg(
                ("--to-version",),
                type=positive_int(allow_zero=False),
                help="A version that was champion before (default: the one that the current champion replaced)",
            ),
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="reproduce",
        help="Train a version again and compare the result; nothing is registered",
        description="Train a version again in a separate process, with the data, trainer and seed recorded in its MLflow run, "
        "and compare metrics, code and environment. The exit status is 1 if anything differs.",
        func=lazy_load_command("airflow_mlops.cli.commands.reproduce"),
        args=(
            _MODEL,
            Arg(("version",), type=positive_int(allow_zero=False), help="The version to train again"),
            ARG_OUTPUT,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="predictions",
        help="Show the predictions of a model: counts, speed, inputs, features, results and realised performance",
        description="Summarise the prediction log and the labels joined to it: number of predictions, speed, inputs, features, "
        "results and realised performance. --files lists the Parquet files with the current predictions.",
        func=lazy_load_command("airflow_mlops.cli.commands.predictions"),
        args=(
            _MODEL,
            Arg(("--window",), help="Only windows inside this one, for example 2013-04 or 2013-01..2013-03"),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--files",), action="store_true", help="List the Parquet files instead, one URL per line"),
            Arg(("--json",), action="store_true", help="Print JSON, with numbers in full precision"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="purge",
        help="Delete old predictions and the outcomes joined from them",
        description="Delete the files of old predictions and of the outcomes joined from them, and keep their manifests, as "
        "PurgePredictionsOperator does.",
        func=lazy_load_command("airflow_mlops.cli.commands.purge"),
        args=(
            _MODEL,
            Arg(
                ("--older-than",),
                required=True,
                help="Minimum age, for example 90D, since the end of the window, or since scoring if that was later",
            ),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--dry-run",), action="store_true", help="Only report what would be deleted"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
)


def get_cli_commands() -> list[GroupCommand]:
    """The group ``mlops``."""
    return [
        GroupCommand(
            name="mlops", help="Models: ledger, rollback, reproduction, predictions, retention", subcommands=_COMMANDS
        )
    ]
