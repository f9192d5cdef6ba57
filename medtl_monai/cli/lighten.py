"""Making typer start faster.

typer builds a pydantic adapter for every parameter before it looks at the value. Importing pydantic takes a third of
the time of ``medtl plugins``, and a parameter that was not given needs none of it.
"""

from __future__ import annotations

from typing import Any


def lighten(command: Any) -> Any:
    """Let a command pass by the coercion of parameters that were not given; return it."""
    get_params = command.get_params

    def light_params(ctx: Any) -> list[Any]:
        parameters: list[Any] = get_params(ctx)
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                _lighten_parameter(parameter)
        return parameters

    command.get_params = light_params
    return command


def _lighten_parameter(parameter: Any) -> None:
    coerce = parameter.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        if value is not None or parameter.required:
            return coerce(ctx, value)
        return parameter.callback(ctx, parameter, None) if parameter.callback else None

    parameter.process_value = process_value
