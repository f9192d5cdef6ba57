"""Policies combined in text: ``gradual * llrd:decay=0.8``, ``linear-probe.then(full, at=0.3)``. Parsed, never run.

The grammar::

    product = factor { "*" factor }
    factor  = ( name | "(" product ")" ) { ".then(" product "," "at=" number ")" }

``name`` is anything that :meth:`~medtl_monai.host.Host.resolve` takes, options included. An option's value may hold a
``*``, so after options the sign of a product needs a space on both sides.
"""

from __future__ import annotations

import dataclasses
import re

from medtl_monai.errors import ConfigError, PluginError, PolicyError
from medtl_monai.host import Choice, Host
from medtl_monai.policy import FreezePolicy

_THEN = re.compile(r"\s*\.\s*then\s*\(")
_AT = re.compile(r"\s*at\s*=\s*([^,()*]+?)\s*(?=\)|$)")
_TIMES = re.compile(r"\s\*(\s|$)")
_HOW = "Write 'a * b', 'a.then(b, at=0.3)' or both, with parentheses where needed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyChoice:
    """A policy as the user wrote it.

    Attributes:
        name: What tables and reports call it: the spec's name, or the whole text where policies are combined.
        choices: The policies named, in order.
        policy: What they make together.
    """

    name: str
    choices: tuple[Choice, ...]
    policy: FreezePolicy


def choose_policy(host: Host, text: str) -> PolicyChoice:
    """Return the policy that a text stands for.

    Raises:
        PolicyError: If the text is not a combination of names, or an option makes no sense.
        PluginError: If a name is unknown, or its plugin fails.
        ConfigError: If an option is unknown or its value does not fit.
    """
    parser = _Parser(host, text)
    policy = parser.product()
    parser.end()
    choices = tuple(parser.choices)
    name = choices[0].spec.name if len(choices) == 1 else " ".join(text.split())
    return PolicyChoice(name=name, choices=choices, policy=policy)


class _Parser:
    def __init__(self, host: Host, text: str) -> None:
        self.host = host
        self.text = text
        self.position = 0
        self.choices: list[Choice] = []

    def product(self) -> FreezePolicy:
        policy = self._factor()
        while self._take("*"):
            policy = policy * self._factor()
        return policy

    def end(self) -> None:
        if self._rest().strip():
            raise self._wrong(f"{self._rest().strip()!r} is left over")

    def _factor(self) -> FreezePolicy:
        if self._take("("):
            policy = self.product()
            if not self._take(")"):
                raise self._wrong("a ')' is missing")
        else:
            policy = self._name()
        while match := _THEN.match(self.text, self.position):
            self.position = match.end()
            policy = self._then(policy)
        return policy

    def _then(self, first: FreezePolicy) -> FreezePolicy:
        second = self.product()
        match = _AT.match(self.text, self.position) if self._take(",") else None
        if match is None:
            raise self._wrong("then(…) needs the share of the epochs, 'at=0.3', as its last part")
        self.position = match.end()
        if not self._take(")"):
            raise self._wrong("a ')' is missing")
        try:
            share = float(match[1])
        except ValueError:
            raise self._wrong(f"at={match[1]} is not a number") from None
        return first.then(second, at=share)

    def _name(self) -> FreezePolicy:
        name = self.text[self.position : self._name_end()]
        self.position += len(name)
        if not name.strip():
            raise self._wrong("a policy's name is missing")
        choice = self._resolve(name.strip())
        policy = choice.build()
        if not isinstance(policy, FreezePolicy):
            what = f"its build returned {type(policy).__name__}, not a FreezePolicy"
            raise PluginError(what, where=choice.qualified, mend="Ask its author, or choose another policy")
        self.choices.append(choice)
        return policy

    def _resolve(self, name: str) -> Choice:
        try:
            return self.host.resolve("policy", name)
        except ConfigError as error:
            if "*" not in name:
                raise
            mend = f"{error.mend}. To combine policies, put a space before and after '*'"
            raise ConfigError(error.what, where=error.where, mend=mend) from error

    def _name_end(self) -> int:
        """Return where a name and its options end: at ``*``, a bracket, ``.then(``, or a comma that is not theirs."""
        for at in range(self.position, len(self.text)):
            sign = self.text[at]
            if sign in "()" or _THEN.match(self.text, at):
                return at
            # Commas and wildcards may belong to options, and those have begun with the first "=".
            options = "=" in self.text[self.position : at]
            if sign == "*" and (not options or _TIMES.match(self.text, at - 1)):
                return at
            if sign == "," and (not options or _AT.match(self.text, at + 1)):
                return at
        return len(self.text)

    def _take(self, sign: str) -> bool:
        rest = self._rest()
        if not rest.lstrip().startswith(sign):
            return False
        self.position += len(rest) - len(rest.lstrip()) + len(sign)
        return True

    def _rest(self) -> str:
        return self.text[self.position :]

    def _wrong(self, what: str) -> PolicyError:
        return PolicyError(what, where=f"policy {self.text!r}", mend=_HOW)
