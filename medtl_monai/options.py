"""Names with options as a user writes them: ``last-n:n=2``, ``distribution:name:key=value,other=a+b``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from medtl_monai.errors import ConfigError, PluginError, did_you_mean
from medtl_monai.specs import Parameter

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Name:
    """A name taken apart.

    Attributes:
        short: The spec's short name.
        distribution: What qualifies it; empty if nothing does.
        options: The options' texts by key.
    """

    short: str
    distribution: str
    options: Mapping[str, str]


def parse_name(text: str) -> Name:
    """Take ``[distribution:]name[:key=value,...]`` apart.

    Everything from the first segment with a ``=`` on is options, so a value may hold a colon.

    Raises:
        PluginError: If the text holds no name, or more than two segments before the options.
        ConfigError: If an option is not ``key=value`` or is given twice.
    """
    segments = text.split(":")
    first = next((i for i, segment in enumerate(segments) if "=" in segment), len(segments))
    names = [segment.strip() for segment in segments[:first]]
    if len(names) not in (1, 2) or not all(names):
        raise PluginError(
            f"{text!r} is not a name", mend="Write 'name' or 'distribution:name', with options as 'name:key=value'"
        )
    return Name(
        short=names[-1],
        distribution=names[0] if len(names) == 2 else "",
        options=_parse_options(":".join(segments[first:]), text),
    )


def _parse_options(text: str, where: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in text.split(",") if text else ():
        key, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not key:
            raise ConfigError(
                f"option {item!r} is not key=value",
                where=where,
                mend="Separate options by commas and join the entries of a list by '+'",
            )
        if key in options:
            raise ConfigError(f"option {key!r} is given twice", where=where, mend="Give it once")
        options[key] = value
    return options


def bind(parameters: tuple[Parameter, ...], given: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return a value for every parameter: the given one, converted to the type of the default, or the default.

    Args:
        parameters: What the spec declares.
        given: Texts from the command line, or values (from a stored run), by name.
        where: The spec's name, for errors.

    Raises:
        ConfigError: If a key is not a parameter (names the known ones) or a value does not fit.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown option {key!r}", where=where, mend=_known(key, list(known)))
    return {
        name: convert(parameter, given[name], where=where) if name in given else parameter.default
        for name, parameter in known.items()
    }


def _known(key: str, known: list[str]) -> str:
    if not known:
        return "It takes no options"
    hint = did_you_mean(key, known)
    return hint if hint.startswith("Choose") else f"{hint} Its options are: {', '.join(sorted(known))}."


def convert(parameter: Parameter, value: Any, *, where: str) -> Any:
    """Return ``value`` in the type of the parameter's default; a default of None takes any plain value.

    Raises:
        ConfigError: If it does not fit.
    """
    default = parameter.default
    try:
        if isinstance(value, str):
            return _from_text(default, value)
        return _from_value(default, value)
    except ValueError as error:
        raise ConfigError(
            f"option {parameter.name}={value!r} is not {error}",
            where=where,
            mend=f"Its default is {parameter.name}={_show(default)}",
        ) from None


def _from_text(default: object, text: str) -> Any:
    if default is None:
        return _guess(text)
    if isinstance(default, bool):
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError("true or false")
        return text.lower() in _TRUE
    if isinstance(default, int):
        return _number(int, text, "a whole number")
    if isinstance(default, float):
        return _number(float, text, "a number")
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split("+")) if text else ()
    return text


def _from_value(default: object, value: Any) -> Any:
    if isinstance(value, list):
        value = tuple(value)
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    raise ValueError(f"of type {type(default).__name__}")


def _number(kind: type[int] | type[float], text: str, name: str) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(name) from None
    if math.isnan(number):
        raise ValueError(name)
    return number


def _guess(text: str) -> Any:
    """Read a text for a parameter whose default None says nothing about its type."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def _show(default: object) -> str:
    return "+".join(default) if isinstance(default, tuple) else str(default)
