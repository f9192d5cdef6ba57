"""What a freeze policy says of adapters: small trainable additions to layers whose own weights stay frozen."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from medtl_monai.specs import _check, _check_name, _check_reference, _check_tuples

Option = bool | int | float | str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """An adapter that a rule asks for: ``Rule(params="adapter", adapter=AdapterSpec(...))``.

    The host puts it in once, after weights are loaded and before the optimizer is made, into every stage that some
    epoch of the policy gives it to. A stage has one adapter for the whole run.

    Attributes:
        name: What it is called in tables and messages.
        build: Reference to ``build(name: str, layer: nn.Module, **options) -> Adapter | None``. It is called for every
            layer of the stage, ``name`` being the layer's path in its stage, and returns the
            :class:`~medtl_monai.modules.Adapter` that takes the layer's place, or None to leave it alone. In a one-file
            plugin write ``f"{__name__}:build"``.
        options: ``(name, value)`` pairs handed to ``build``; plain values, stored in the run.
    """

    name: str
    build: str
    options: tuple[tuple[str, Option], ...] = ()

    def __post_init__(self) -> None:
        _check_tuples(self)
        _check_name(self.name, "AdapterSpec")
        where = f"adapter {self.name}"
        _check_reference(self.build, f"{where}.build")
        mend = "Write 'package.module:callable', or f'{__name__}:callable' in a one-file plugin"
        _check(not self.build.startswith(":"), f"{self.build!r} names no module", f"{where}.build", mend)
        for key, value in self.options:
            plain = value is None or isinstance(value, (bool, int, float, str)) or _is_texts(value)
            mend = "Use numbers, texts, booleans, None or tuples of texts"
            _check(plain, f"option {key!r} is a {type(value).__name__}", where, mend)

    def to_text(self) -> str:
        """Return it as one line of JSON, as ``policy.csv`` holds it."""
        return json.dumps({"name": self.name, "build": self.build, "options": dict(self.options)})

    @classmethod
    def from_text(cls, text: str) -> AdapterSpec:
        """Read back what :meth:`to_text` returned.

        Raises:
            ValueError: If the text is damaged.
        """
        try:
            value: dict[str, Any] = json.loads(text)
            options = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in value["options"].items())
            return cls(name=value["name"], build=value["build"], options=options)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("the description of the adapter is damaged") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
