"""The mixin that maps the parameters of operators and sensors to the fields of a step's spec."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import XComArg

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.failures import no_retry_of_final_errors
from airflow_mlops.operators.rendering import (
    REQUEST,
    check_interval,
    defined,
    is_known_text,
    template_errors,
    with_expressions,
    with_missing,
)

if TYPE_CHECKING:
    from airflow.sdk import Context
    from jinja2 import Environment

    from airflow_mlops.core.calls import Spec

# Attribute names by parameter name. Airflow uses the attribute ``label`` for the text of a task in the graph.
_ATTRIBUTES = {"label": "label_column"}


class _StepSpec:
    """A descriptor that returns the spec class of a stage.

    The spec class of the stage ``train`` is ``TrainSpec`` of ``airflow_mlops.stages.train.spec``. It is imported when a
    task runs, because pydantic builds models slowly and DAG files are parsed often.
    """

    def __get__(self, instance: object, owner: type[SpecParameters]) -> type[Spec]:
        module = import_module(f"airflow_mlops.stages.{owner.step}.spec")
        spec: type[Spec] = getattr(module, f"{owner.step.title().replace('_', '')}Spec")
        return spec


class SpecParameters:
    """Mixin for operators and sensors that run a step.

    A keyword parameter of ``__init__`` sets the field of the spec with the same name. All parameters that are not in
    ``untemplated`` are template fields. Both rules apply to the class that sets ``step``, and not to its subclasses.

    :cvar step: name of the stage's folder in ``airflow_mlops.stages``
    :cvar spec: class of the step's spec
    :cvar untemplated: names of the parameters that Airflow does not render
    :cvar safeguards: names of parameters whose default is ``None``, but for which null from a template is an error.
        Otherwise, the task would silently run without the check or the limit that the DAG declares
    :cvar structured: names of the parameters in which numbers, booleans and null from templates keep their types, see
        :mod:`airflow_mlops.operators.rendering`
    :cvar parameters: names of the keyword parameters, beginning with those of the base classes
    :cvar required: names of the parameters that have no default
    :cvar optional: names of the parameters whose default is ``None``
    """

    step: ClassVar[str]
    spec: ClassVar[type[Spec]] = _StepSpec()  # type: ignore[assignment]
    untemplated: ClassVar[frozenset[str]] = frozenset()
    # Without a window, a task reads or replaces everything.
    safeguards: ClassVar[frozenset[str]] = frozenset({"window"})
    structured: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[tuple[str, ...]] = ()
    required: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    template_fields: Collection[str]
    task_id: str
    render_template: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Subclasses that users write declare their template fields themselves, as usual in Airflow.
        if hasattr(cls, "step") and "step" not in vars(cls):
            return
        if "__init__" in vars(cls):
            signature = inspect.getfullargspec(vars(cls)["__init__"])
            cls.parameters = (*cls.parameters, *signature.kwonlyargs)
            defaults = signature.kwonlydefaults or {}
            cls.required = cls.required | {
                _ATTRIBUTES.get(name, name) for name in signature.kwonlyargs if name not in defaults
            }
            cls.optional = cls.optional | {
                _ATTRIBUTES.get(name, name) for name, value in defaults.items() if value is None
            }
        if "template_fields" not in vars(cls):
            cls.template_fields = tuple(
                _ATTRIBUTES.get(name, name) for name in cls.parameters if name not in cls.untemplated
            )

    def assign_parameters(self, values: Mapping[str, Any]) -> None:
        """Set one attribute of this operator for each keyword parameter.

        :param values: values by parameter name. Names that are not parameters are ignored, so ``__init__`` can pass
            ``locals()``
        """
        for name in self.parameters:
            if name in values:
                setattr(self, _ATTRIBUTES.get(name, name), values[name])

    def spec_fields(self) -> dict[str, Any]:
        """Return the fields of the spec, taken from the rendered attributes of this operator.

        Parameters that are ``None`` are left out, so that the defaults of the spec apply.
        """
        values = {
            name: getattr(self, _ATTRIBUTES.get(name, name))
            for name in self.parameters
            if name in self.spec.model_fields
        }
        return {name: _without_laziness(value) for name, value in values.items() if value is not None}

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)  # type: ignore[misc]
            return
        context = with_missing(self._with_request(context), jinja_env)
        # Airflow's own loop would log a traceback for each template that cannot be rendered.
        for name in template_fields:
            with no_retry_of_final_errors(), template_errors(f"Task {self.task_id!r}, {name}="):
                written = getattr(self, name)
                check_interval(written, context)
                value = with_expressions(written, jinja_env, seen_oids, structured=name in self.structured)
                if callable(value):
                    value = value(context=context, jinja_env=jinja_env)
                else:
                    value = self.render_template(value, context, jinja_env, seen_oids)
                if value is None and written is not None and not self._may_be_null(name, written):
                    raise SpecError(
                        f"Task {self.task_id!r}, {name}=: the template {written!r} has no value. Give it a default."
                    )
                setattr(self, name, defined(value))

    def _may_be_null(self, name: str, written: Any) -> bool:
        """Return whether null is allowed as the rendered value of a template. Null means that the parameter is not set.

        :param written: value of the parameter in the DAG file
        """
        if name in self.optional:
            return name not in self.safeguards
        # The output of a skipped task is null. The spec decides whether the step needs the output.
        return name in self.required and isinstance(written, XComArg)

    def _with_request(self, context: Context) -> Context:
        """Return the context with the newest request for retraining that started the run, for templates."""
        from airflow_mlops.operators.retraining import newest_request, triggering_requests

        model = getattr(self, "model", None)
        known = model if is_known_text(model) else None
        return {**context, REQUEST: newest_request(triggering_requests(context), known)}  # type: ignore[misc]


def _without_laziness(value: Any) -> Any:
    # The output of a mapped task is a lazy sequence, which pydantic does not accept for a list.
    if isinstance(value, Mapping):
        return {key: _without_laziness(item) for key, item in value.items()}
    lazy = isinstance(value, Sequence) and not isinstance(value, (str, bytes, list, tuple))
    return list(value) if lazy else value
