"""The fields that the specs of all trainers have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from airflow_mlops.core.base import Model, Name

# package.module.Class, or package.module:function
ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*(\.|:)[A-Za-z_]\w*$")]


class TrainerSpec(Model):
    """The fields that all trainers have in common.

    :param params: keyword arguments of the estimator or the network, or the argument ``params`` of the user's function
    :param name: name of the candidate in MLflow; by default the name of the class or function
    :param serialization: file format of a scikit-learn model; loading a ``cloudpickle`` file can run code
    :param trusted_types: names of types that the stored model may contain in addition to the types of scikit-learn,
        NumPy, SciPy and InterpretML's glass-box models
    """

    params: dict[str, Any] = Field(default_factory=dict)
    name: Name | None = None
    serialization: Literal["skops", "cloudpickle"] = "skops"
    trusted_types: list[str] = Field(default_factory=list)

    # Fields that a search may choose, in addition to params.
    searchable: ClassVar[frozenset[str]] = frozenset()
    # Whether the trainer reads the rows itself, in parts, and holds out validation rows.
    streams: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Return the name of the candidate: ``name``, or by default the name of the class or function."""
        return self.name or self.path.replace(":", ".").rpartition(".")[2]

    @property
    def reads_rows(self) -> bool:
        """Return whether the trainer reads the training rows itself, in parts."""
        return self.streams

    @property
    @abstractmethod
    def path(self) -> str:
        """Return the import path of the estimator class, the network or the function."""

    def with_values(self, values: dict[str, Any]) -> TrainerSpec:
        """Return a copy with the values that a search chose. Names outside ``searchable`` go into ``params``.

        :raises pydantic.ValidationError: a value is not valid for its field
        """
        fields = {name: value for name, value in values.items() if name in self.searchable}
        params = {name: value for name, value in values.items() if name not in self.searchable}
        return self.model_validate({**self.model_dump(), **fields, "params": {**self.params, **params}})
