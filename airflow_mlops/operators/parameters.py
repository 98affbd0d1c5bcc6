"""Operators and sensors whose parameters are the fields of a step's spec."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from airflow_mlops.core.calls import Spec

# Attributes that Airflow's operators use for something else: ``label`` is the text of the task in the graph.
_ATTRIBUTES = {"label": "label_column"}


class _StepSpec:
    """The class ``StageSpec`` in ``airflow_mlops.stages.STAGE.spec``, for the stage that ``step`` names.

    It is imported when a task runs, because pydantic builds models slowly and DAG files are parsed often.
    """

    def __get__(self, instance: object, owner: type[SpecParameters]) -> type[Spec]:
        module = import_module(f"airflow_mlops.stages.{owner.step}.spec")
        spec: type[Spec] = getattr(module, f"{owner.step.title().replace('_', '')}Spec")
        return spec


class SpecParameters:
    """Mixin of operators and sensors that run a step.

    The keyword parameters of ``__init__`` are the only list of fields that a subclass writes. Parameters with the name
    of a field of the spec become that field. All parameters except those in ``untemplated`` are template fields. Both
    hold for the class that sets ``step``, not for its subclasses.

    :cvar step: name of the stage's folder in ``airflow_mlops.stages``
    :cvar spec: the step's spec
    :cvar untemplated: parameters that Airflow does not render
    :cvar parameters: names of the keyword parameters, those of the base classes first
    """

    step: ClassVar[str]
    spec: ClassVar[type[Spec]] = _StepSpec()  # type: ignore[assignment]
    untemplated: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[tuple[str, ...]] = ()

    template_fields: Collection[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A user's subclass of an operator declares its own template fields, as usual in Airflow.
        if hasattr(cls, "step") and "step" not in vars(cls):
            return
        if "__init__" in vars(cls):
            cls.parameters = (*cls.parameters, *inspect.getfullargspec(vars(cls)["__init__"]).kwonlyargs)
        if "template_fields" not in vars(cls):
            cls.template_fields = tuple(
                _ATTRIBUTES.get(name, name) for name in cls.parameters if name not in cls.untemplated
            )

    def assign_parameters(self, values: Mapping[str, Any]) -> None:
        """Set the attribute of each parameter.

        :param values: the values by parameter; other names are ignored, so that ``__init__`` can pass ``locals()``
        """
        for name in self.parameters:
            if name in values:
                setattr(self, _ATTRIBUTES.get(name, name), values[name])

    def spec_fields(self) -> dict[str, Any]:
        """The spec's fields, from the rendered attributes. The spec's default applies where a parameter is ``None``."""
        values = {
            name: getattr(self, _ATTRIBUTES.get(name, name))
            for name in self.parameters
            if name in self.spec.model_fields
        }
        return {name: _without_laziness(value) for name, value in values.items() if value is not None}


def is_template(value: Any) -> bool:
    """Whether ``value`` holds a Jinja template or the output of a task, so that it is only known when the task runs."""
    return "{{" in (text := str(value)) or "{%" in text


def _without_laziness(value: Any) -> Any:
    # The output of a mapped task is a lazy sequence, which pydantic does not accept as a list.
    lazy = isinstance(value, Sequence) and not isinstance(value, (str, bytes, list, tuple))
    return list(value) if lazy else value
