"""Spec and result of the stage ``validate``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result
from airflow_mlops.core.references import DatasetLike, DatasetRef
from airflow_mlops.core.shards import ShardedSpec
from airflow_mlops.core.windows import Window
from airflow_mlops.data.databases.bounds import placeholders

OnFailure = Literal["fail", "warn", "quarantine"]
Severity = Literal["critical", "warning", "info"]
_NAME = TypeAdapter(Name)


class ValidateSpec(ShardedSpec):
    """Parameters of a validation, which runs a Great Expectations suite on a dataset, or in a database.

    Set either ``dataset``, or ``conn_id`` with ``table`` or ``sql``.

    :param dataset: dataset to validate. Several datasets with the same name are validated as one table
    :param conn_id: id of the Airflow connection to the database that runs the validation
    :param table: name of the table or view to validate, or ``SCHEMA.TABLE``
    :param sql: query whose result is validated. It selects the rows of the window with the placeholders ``:start``
        (included) and ``:end`` (not included)
    :param name: name of the validated rows in the Data Docs and of the quarantine; by default the name of ``table``
        without the schema
    :param window: time window of the rows that ``sql`` selects; ``None`` (default) without placeholders
    :param suite: the suite, in one of three forms: the path of a ``.json`` file in Great Expectations' format, the
        content of such a file as a dict, or the import path ``package.module:function`` of a function that takes no
        arguments and returns an ``ExpectationSuite``
    :param on_failure: what happens if an expectation with the severity ``critical`` (Great Expectations' default) fails.
        ``fail`` fails the task. ``warn`` logs a warning, and the task succeeds. ``quarantine`` writes the failing rows to
        the dataset ``NAME_quarantine`` and the other rows of a dataset to ``NAME_valid``, and the task succeeds. With
        ``quarantine``, the task still fails if every row failed, or if a failed expectation concerns the whole table. A
        failed expectation with the severity ``warning`` or ``info`` is only logged, at this level
    :param owner: owner of the written datasets, if the validated dataset has no owner
    """

    dataset: DatasetLike | None = None
    conn_id: str | None = None
    table: str | None = None
    sql: str | None = None
    name: str = ""
    window: Window | None = None
    suite: str | dict[str, Any]
    on_failure: OnFailure = "fail"
    owner: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> ValidateSpec:
        if (self.dataset is None) == (self.conn_id is None):
            raise ValueError("Set exactly one of `dataset`, and `conn_id` with `table` or `sql`.")
        if self.conn_id is None:
            if unused := [name for name in ("table", "sql", "name", "window") if getattr(self, name)]:
                raise ValueError(f"`{unused[0]}` is only used with `conn_id`. Remove `{unused[0]}`, or set `conn_id`.")
            return self
        if self.shards is not None:
            raise ValueError(
                "`shards` divides the rows of a dataset, but `conn_id` is set, so the database validates all rows. Remove "
                "`shards`."
            )
        if (self.table is None) == (self.sql is None):
            raise ValueError("`conn_id` needs exactly one of `table` and `sql`. Set one of them.")
        self._check_rows()
        self._check_name()
        return self

    def _check_rows(self) -> None:
        if self.table is not None:
            if not all(self.table.split(".")):
                raise ValueError(
                    f"`table` is {self.table!r}, which names no table. Set it to `TABLE` or `SCHEMA.TABLE`."
                )
            if self.window is not None:
                raise ValueError(
                    "`window` is set, but `table` means all rows of the table. Select the rows of the window in `sql` "
                    "with :start and :end, or remove `window`."
                )
            return
        assert self.sql is not None
        if not self.sql.strip():
            raise ValueError("`sql` is empty. Write the query.")
        used = placeholders(self.sql)
        if self.window is not None and used != {"start", "end"}:
            raise ValueError(
                "`window` is set, but `sql` does not use both :start and :end. Add a condition such as WHERE t >= :start "
                "AND t < :end."
            )
        if self.window is None and used:
            raise ValueError("`sql` uses :start or :end, but `window` is not set. Set `window`.")

    def _check_name(self) -> None:
        try:
            _NAME.validate_python(self.rows_name)
        except ValidationError:
            raise ValueError(
                f"`name` is {self.rows_name!r}, which cannot name a dataset. Set `name` to letters, digits, '_', '-' and "
                "'.', for example `name='orders'`."
            ) from None

    @property
    def rows_name(self) -> str:
        """Return the name of the validated rows of a database: ``name``, or the name of the table."""
        return self.name or (self.table or "").rpartition(".")[2]


class ExpectationOutcome(Model):
    """The result of one expectation.

    :param expectation: type and columns of the expectation, such as ``expect_column_values_to_not_be_null(carrier)``
    :param success: whether the expectation passed
    :param unexpected: number of rows that do not meet the expectation; ``None`` if the expectation concerns the whole
        table
    :param severity: severity of a failure. ``on_failure`` applies only to ``critical``, which is also the severity of
        results of older versions
    """

    expectation: str
    success: bool
    unexpected: int | None = None
    severity: Severity = "critical"


class ValidateResult(Result):
    """Result of a validation.

    With ``shards``, the shard that completes the validation returns the whole result. The results of all other shards
    have neither a dataset nor outcomes.

    :param dataset: dataset for downstream tasks. With ``on_failure="quarantine"``, this is the dataset ``NAME_valid``, otherwise the validated dataset, or a list if several datasets were validated. ``None`` if a database was validated, or if another shard completes the validation
    :param success: whether every expectation with the severity ``critical`` passed; ``None`` if another shard completes
        the validation
    :param quarantined: with ``on_failure="quarantine"`` the dataset ``NAME_quarantine`` with the failing rows, which
        has no rows if no row failed; otherwise ``None``
    :param outcomes: result of each expectation
    :param docs_url: URL of the Data Docs page with the results, in the artifact store, or of their index if Great
        Expectations could not write this page; ``None`` if another shard completes the validation
    :param shard: index of the shard; ``None`` without shards
    """

    dataset: DatasetRef | list[DatasetRef] | None = None
    success: bool | None
    quarantined: DatasetRef | None = None
    outcomes: list[ExpectationOutcome] = Field(default_factory=list)
    docs_url: str | None
    shard: int | None = None
