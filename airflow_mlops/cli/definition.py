"""The definition of the commands ``airflow mlops`` and their arguments.

Every ``airflow`` command imports this module, so it imports no other module of this package.
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
_STORE = Arg(("--store",), help="URL of the artifact store (default: the option artifacts in the section mlops)")
_CONNECTION = Arg(
    ("--mlflow-conn-id",),
    default="mlflow_default",
    help="Id of the Airflow connection to MLflow (default: mlflow_default)",
)
_PREDICTIONS = Arg(("--predictions",), help="Name of the datasets of predictions (default: MODEL_predictions)")
_OUTCOMES = Arg(("--outcomes",), help="Name of the datasets of labelled predictions (default: MODEL_outcomes)")
_COMMON = (_STORE, _CONNECTION, ARG_VERBOSE)

_COMMANDS = (
    ActionCommand(
        name="init",
        help="Propose the DAGs of a new model from files or a table",
        description="Read files or a table, and write DAGs for ingestion, scoring, monitoring and training, a suite of Great "
        "Expectations, a test and a README into a new folder. The command asks for facts that it cannot infer from the data. "
        "Without a terminal, these facts must be arguments.",
        func=lazy_load_command("airflow_mlops.cli.init.init"),
        args=(
            Arg(("name",), help="Name of the model, such as churn. The names of its DAGs begin with it"),
            Arg(
                ("--files",),
                nargs="+",
                help="Data files (CSV, JSON lines or Parquet): paths, URLs or patterns",
            ),
            Arg(
                ("--csv",),
                help="Options for reading CSV files: the parameter csv of IngestOperator as YAML or JSON, such as \"{'sep': ';'}\"",
            ),
            Arg(
                ("--types",),
                help="Types of columns: the parameter types of IngestOperator as YAML or JSON, such as \"{'zip': string}\"",
            ),
            Arg(("--conn-id",), help="Id of the Airflow connection to the database of --table"),
            Arg(("--table",), help="Table or view, as TABLE or SCHEMA.TABLE. Quote names with dots: SCHEMA.'\"a.b\"'"),
            Arg(("--label",), help="Column that the model predicts"),
            Arg(
                ("--label-delay",),
                help="Time until the label of a row is known, such as 12h or 30D; 0 if each row already has its label",
            ),
            Arg(
                ("--positive",),
                help="Label of the positive class, if the labels are two texts (default: yes, y, true, t or 1)",
            ),
            Arg(("--time",), help="Column with the time at which the features of a row were known"),
            Arg(("--keys",), help="Columns that together identify a row, separated by commas"),
            Arg(
                ("--features",), help="Feature columns, separated by commas (default: all columns that can be features)"
            ),
            Arg(
                ("--exclude",),
                help="Columns to exclude from the features, separated by commas, such as columns known only later",
            ),
            Arg(
                ("--every",),
                choices=("day", "week", "month"),
                help="Length of a window (default: derived from the time span and the number of rows)",
            ),
            Arg(("--timezone",), default="UTC", help="Time zone of the windows, such as Europe/Berlin (default: UTC)"),
            Arg(("--folder",), help="Folder to write, which must be new or empty (default: NAME)"),
            Arg(
                ("--ci",), choices=("github", "gitlab"), help="Also write a CI pipeline that checks and tests the DAGs"
            ),
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="models",
        help="List all models with champion, last verdict, scoring and open requests",
        description="List all models in the artifact store with the champion and its start, the verdict on the last monitored window, the "
        "last scoring, and what needs action. The pages in Airflow show the same facts.",
        func=lazy_load_command("airflow_mlops.cli.overview.models"),
        args=(ARG_OUTPUT, _STORE, ARG_VERBOSE),
    ),
    ActionCommand(
        name="status",
        help="Show the state of a model: champion, last windows, decisions",
        description="Show the state of a model: the champion, the verdict on the last monitored window and the facts behind it, the last "
        "windows, and the last decisions. The exit status is 1 if something could not be read.",
        func=lazy_load_command("airflow_mlops.cli.overview.status"),
        args=(_MODEL, ARG_OUTPUT, _STORE, ARG_VERBOSE),
    ),
    ActionCommand(
        name="index",
        help="Rebuild the index of models",
        description="Rebuild the index of models from the ledgers, the monitoring reports and the predictions in the artifact store. Models "
        "that were only trained are read from MLflow. Steps keep the index up to date; run this command if an update of the index "
        "failed.",
        func=lazy_load_command("airflow_mlops.cli.overview.index"),
        args=_COMMON,
    ),
    ActionCommand(
        name="ledger",
        help="Show the promotions, refusals and rollbacks of a model, with user, time and reason",
        description="Show the promotion ledger of a model, oldest entry first. The chain of hashes in the ledger is always "
        "verified. --verify also compares the ledger with MLflow. It detects whether the last entries were removed, and whether files of "
        "the champion were changed after its promotion. --requests shows the requests for retraining and the DAGs that are scheduled "
        "on the asset mlops://MODEL/retrain. A request is answered (a training started, or its candidate was judged), moot (the "
        "champion changed first), expired (a later window requested retraining first) or open. With --requests, the exit status is 1 "
        "if no DAG listens.",
        func=lazy_load_command("airflow_mlops.cli.ledger.ledger"),
        args=(
            _MODEL,
            Arg(("--verify",), action="store_true", help="Verify the ledger instead of showing its entries"),
            Arg(
                ("--requests",),
                action="store_true",
                help="Show the requests for retraining with their states, and the DAGs that listen to them",
            ),
            ARG_OUTPUT,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="rollback",
        help="Roll back to a former champion",
        description="Move the alias champion back to an earlier version, record the rollback in the ledger with your user name, and "
        "send the asset event, as RollbackOperator does.",
        func=lazy_load_command("airflow_mlops.cli.models.rollback"),
        args=(
            _MODEL,
            Arg(("--reason",), required=True, help="Reason for the rollback, recorded in the ledger"),
            Arg(
                ("--to-version",),
                type=positive_int(allow_zero=False),
                help="Former champion to roll back to (default: the version that the current champion replaced)",
            ),
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="promote",
        help="Promote a version that was copied from another registry",
        description="Promote a version that TransferModelOperator has copied to a registry, with the evidence of its source registry. "
        "The ledger of the target registry records your user name and the reason. The command fails if the champion is not the "
        "version in --replaces.",
        func=lazy_load_command("airflow_mlops.cli.models.promote"),
        args=(
            _MODEL,
            Arg(("version",), type=positive_int(allow_zero=False), help="Number of the version in this registry"),
            Arg(
                ("--to",),
                required=True,
                help="Id of the Airflow connection to the MLflow registry that received the version",
            ),
            Arg(("--reason",), required=True, help="Reason for the promotion, recorded in the ledger"),
            Arg(
                ("--replaces",),
                required=True,
                help="Version number of the champion that is replaced, or none if the model has no champion",
            ),
            Arg(
                ("--store",),
                help="URL of the artifact store (default: extra field artifacts of the connection, or option artifacts in section mlops)",
            ),
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="reproduce",
        help="Train a version again and compare the result, without registering it",
        description="Train a version again in a separate process, with the data, trainer and seed that its MLflow run records, and "
        "compare metrics, code and environment with the recorded values. The exit status is 1 if anything differs.",
        func=lazy_load_command("airflow_mlops.cli.models.reproduce"),
        args=(
            _MODEL,
            Arg(("version",), type=positive_int(allow_zero=False), help="Number of the version to train again"),
            Arg(
                ("--allow-code",),
                action="store_true",
                help="Also run the functions, networks and metrics that the MLflow run names (default: only estimators of "
                "scikit-learn, XGBoost, LightGBM, CatBoost and InterpretML)",
            ),
            ARG_OUTPUT,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="serve",
        help="Serve the champion of a model over HTTP",
        description="Start a server that speaks the Open Inference Protocol (REST), follows the champion and logs its predictions in the "
        "artifact store. Requests must carry the token in the environment variable MLOPS_SERVE_TOKEN if it is set. SIGTERM or "
        "Ctrl-C ends the server.",
        func=lazy_load_command("airflow_mlops.cli.models.serve"),
        args=(
            _MODEL,
            Arg(("--host",), default="127.0.0.1", help="Address on which the server listens (default: 127.0.0.1)"),
            Arg(
                ("--port",),
                type=positive_int(allow_zero=False),
                default=8080,
                help="Port of the server (default: 8080)",
            ),
            Arg(
                ("--version",),
                type=positive_int(allow_zero=False),
                help="Version to serve (default: the server follows the champion)",
            ),
            Arg(
                ("--window",),
                choices=("hour", "day"),
                default="day",
                help="Length of the time windows of the logged predictions (default: day)",
            ),
            Arg(("--no-log",), action="store_true", help="Do not log predictions"),
            Arg(
                ("--shadow",),
                help="Number or alias of a shadow version. It scores the same rows, and its predictions are only logged",
            ),
            Arg(
                ("--canary",),
                help="Number or alias of a canary version, which answers a share of the requests",
            ),
            Arg(
                ("--canary-share",),
                type=float,
                help="Share of the requests that the canary answers, 0 to 1 (default: 0.1)",
            ),
            Arg(
                ("--canary-key",),
                help="Field of the rows, such as a customer id, whose value decides which version answers (default: the id of the "
                "request)",
            ),
            Arg(
                ("--hash-column",),
                action="append",
                help="Column to log as keyed hashes. Repeat the option for further columns",
            ),
            Arg(
                ("--drop-column",),
                action="append",
                help="Column to leave out of the log. Repeat the option for further columns",
            ),
            Arg(("--hash-conn-id",), help="Airflow connection whose password is the secret key for the hashes"),
            Arg(
                ("--sample",),
                type=float,
                default=1.0,
                help="Share of the requests that are logged, 0 to 1 (default: 1)",
            ),
            Arg(("--feast-repo",), help="Feast repository. Features are looked up in its online store"),
            Arg(
                ("--spool",),
                help="Folder for logged predictions that are not yet in the artifact store (default: in the folder for temporary files)",
            ),
            _PREDICTIONS,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="servers",
        help="Show the servers that log predictions, or report that the spool of a server is lost",
        description="Show the records of the servers of a model: the time until which the predictions of each server are in the artifact "
        "store, and whether it has ended. --lost reports that the spool of a killed server is lost, for example with its machine. Later "
        "windows without requests can then be recorded as empty. Windows in which the server may have lost predictions stay gaps.",
        func=lazy_load_command("airflow_mlops.cli.datasets.servers"),
        args=(
            _MODEL,
            Arg(("--lost",), metavar="SERVER", help="Name of the server whose spool is lost, as the table shows it"),
            ARG_OUTPUT,
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="backtest",
        help="Replay a retraining policy over the labelled windows of a model",
        description="Replay a retraining policy over the labelled windows in the artifact store, and train a model whenever the policy "
        "requests retraining. The policy is compared with never retraining, with retraining after every window, and with an oracle, "
        "which predicts each window with the best model trained before it. No DAG runs, and nothing is registered. The result is "
        "printed, and written to the artifact store as an HTML page and as JSON.",
        func=lazy_load_command("airflow_mlops.cli.models.backtest"),
        args=(
            _MODEL,
            Arg(
                ("--version",),
                type=positive_int(allow_zero=False),
                help="Version to begin with (default: the champion). Its training set is the first window",
            ),
            Arg(("--policy",), help="YAML file with the retraining policy (default: the default policy)"),
            Arg(
                ("--from",),
                dest="first",
                metavar="WINDOW",
                help="First window to replay, for example 2013-04 (default: the first after the training set)",
            ),
            Arg(
                ("--to",),
                dest="last",
                metavar="WINDOW",
                help="Last window to replay, for example 2013-12 (default: the newest)",
            ),
            Arg(
                ("--trainer",),
                help="YAML file with the trainer, in the form of training.json in the MLflow run (default: the trainers of the "
                "version and of the other candidates). Required if the trainer of the version runs your code",
            ),
            Arg(
                ("--delay",),
                type=positive_int(allow_zero=True),
                default=0,
                help="Number of windows until the labels of a window arrive (default: 0)",
            ),
            _OUTCOMES,
            ARG_OUTPUT,
            *_COMMON,
        ),
    ),
    ActionCommand(
        name="predictions",
        help="Show the counts, speed, inputs, features, results and realised performance of a model's predictions",
        description="Summarise the prediction log and the labels joined to it. The tables show the number of predictions, speed, inputs, "
        "features, results and realised performance. --files lists the Parquet files with the current predictions.",
        func=lazy_load_command("airflow_mlops.cli.datasets.predictions"),
        args=(
            _MODEL,
            Arg(
                ("--window",),
                help="Show only windows inside this window, for example 2013-04 or 2013-01..2013-03 (both months included)",
            ),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--files",), action="store_true", help="List only the Parquet files, one URL per line"),
            Arg(("--json",), action="store_true", help="Print JSON, with numbers in full precision"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="datasets",
        help="List, show and withdraw the windows and snapshots of datasets",
        description="List the names of all datasets. With NAME, list the windows and snapshots of this dataset: each is current, "
        "replaced by a newer dataset of an overlapping window, or withdrawn. --withdraw replaces a window with a tombstone with your "
        "user name and the reason. No task selects a withdrawn window. The files and the manifest stay.",
        func=lazy_load_command("airflow_mlops.cli.datasets.datasets"),
        args=(
            Arg(("name",), nargs="?", help="Name of the dataset (default: list all names)"),
            Arg(
                ("--show",),
                metavar="WINDOW",
                help="Print the manifest of this window, or of the dataset with this id, as JSON",
            ),
            Arg(
                ("--withdraw",),
                metavar="WINDOW",
                help="Withdraw this window, all windows inside a range such as 2013-01..2013-03, or the dataset with this id",
            ),
            Arg(("--reason",), help="Reason for the withdrawal, recorded in the tombstone"),
            ARG_OUTPUT,
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="purge",
        help="Delete old predictions and the labelled predictions joined from them",
        description="Delete the files of old predictions and of the labelled predictions joined from them, as "
        "PurgePredictionsOperator does. The manifests of these datasets stay.",
        func=lazy_load_command("airflow_mlops.cli.datasets.purge"),
        args=(
            _MODEL,
            Arg(
                ("--older-than",),
                required=True,
                help="Minimum age of predictions to delete, for example 90D. The age is the time since the end of the window or "
                "since scoring, whichever is shorter",
            ),
            _PREDICTIONS,
            _OUTCOMES,
            Arg(("--dry-run",), action="store_true", help="Report what would be deleted, without deleting it"),
            _STORE,
            ARG_VERBOSE,
        ),
    ),
    ActionCommand(
        name="clean",
        help="Delete leftovers of crashed tasks from the artifact store",
        description="Delete old leftovers of crashed tasks from the artifact store: temporary files, files of datasets that no manifest "
        "lists, and unfinished uploads to S3. Datasets, results, reports and the ledger are never deleted.",
        func=lazy_load_command("airflow_mlops.cli.datasets.clean"),
        args=(
            Arg(
                ("--older-than",),
                default="7D",
                help="Minimum age of leftovers to delete, at least 1D. It must be longer than any task runs (default: 7D)",
            ),
            Arg(("--dry-run",), action="store_true", help="List what would be deleted, without deleting it"),
            ARG_OUTPUT,
            _STORE,
            ARG_VERBOSE,
        ),
    ),
)


def get_cli_commands() -> list[GroupCommand]:
    """Return the command group ``mlops``."""
    return [
        GroupCommand(
            name="mlops",
            help="Create, inspect and manage models and datasets (init, models, status, ledger, rollback, reproduction, predictions, datasets, purge, clean)",
            subcommands=_COMMANDS,
        )
    ]
