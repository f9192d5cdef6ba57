"""Every error that the code can raise, read from its source: what it says, how it is mended, and where it is raised.

Texts are templates: what is only known when the error occurs stands as ``‹name›``. Where a helper builds the error from
what its callers say, each caller is an entry.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import medtl_monai
from medtl_monai import errors

PACKAGE = Path(medtl_monai.__file__).parent
CLASSES = frozenset(
    name for name, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.MedtlError)
)
_MOST = 12
_DEPTH = 6
_GIVEN = {"did_you_mean": "Did you mean ‹name›?", "listing": "‹list›"}
"""What helpers return, in words of a message."""

Function = ast.FunctionDef | ast.AsyncFunctionDef
Bound = Mapping[str, tuple[ast.expr, "Place"]]


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed source file.

    Attributes:
        name: Dotted name below the package.
        tree: Its syntax.
        parents: Node to the node around it.
    """

    name: str
    tree: ast.Module
    parents: Mapping[ast.AST, ast.AST]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an expression stands: its module, its function, and what the function was called with."""

    module: Module
    function: Function | None
    bound: Bound = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, order=True)
class Raised:
    """One error.

    Attributes:
        room: First part of the module's name.
        what: The template of its text.
        mend: What the user can do.
        error: Its class.
        module: Where it is raised.
        line: Of the constructor's call.
    """

    room: str
    what: str
    mend: str
    error: str
    module: str
    line: int


def raised() -> list[Raised]:
    """Return every error in the package, sorted by room and text."""
    return sorted({entry for module in modules() for call in _constructed(module) for entry in _entries(module, call)})


@cache
def modules() -> tuple[Module, ...]:
    """Return the package's parsed modules."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        found.append(Module(name, tree, parents))
    return tuple(found)


def _constructed(module: Module) -> Iterator[ast.Call]:
    """Yield every call that makes an error."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and _called(node) in CLASSES:
            yield node


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _entries(module: Module, call: ast.Call) -> Iterator[Raised]:
    mend = next((keyword.value for keyword in call.keywords if keyword.arg == "mend"), ast.Constant(""))
    function = _around(module, call)
    for place in _places(module, function, [call.args[0], mend]):
        mends = " Or: ".join(dict.fromkeys(text for text in texts(mend, place) if text))
        for what in texts(call.args[0], place):
            yield Raised(module.name.partition(".")[0], what, mends, _called(call), module.name, call.lineno)


def _around(module: Module, node: ast.AST) -> Function | None:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, Function):
            return node
    return None


# Where texts come from the caller


def _places(module: Module, function: Function | None, used: Iterable[ast.expr], depth: int = 0) -> list[Place]:
    """Return the function's place once for each caller that says something the texts are made of."""
    plain = Place(module, function)
    if function is None or depth > 2:
        return [plain]
    wanted = _parameters(function) & {name for one in used for name in _names(one, plain)}
    found = []
    for caller in modules() if wanted else ():
        for call in _calls(caller, function, module):
            given = {name: value for name, value in _arguments(function, call).items() if name in wanted}
            if not _fits(function, call) or not any(_says(value) for value in given.values()):
                continue
            around = _around(caller, call)
            for place in _places(caller, around, given.values(), depth + 1):
                found.append(Place(module, function, {name: (value, place) for name, value in given.items()}))
    return found or [plain]


def _says(value: ast.expr) -> bool:
    """Whether an argument holds words of its own."""
    return any(isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value.strip() for n in ast.walk(value))


def _names(expression: ast.expr, place: Place, depth: int = 0) -> set[str]:
    """Return the names an expression is made of, local variables followed."""
    found = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
    if depth < 3:
        for name in list(found):
            for value in _assigned(name, expression, place):
                found |= _names(value, place, depth + 1)
    return found


def _parameters(function: Function) -> set[str]:
    arguments = function.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"self", "cls"}


def _calls(module: Module, function: Function, home: Module) -> Iterator[ast.Call]:
    """Yield the calls of a function: by its own name, of a method through an attribute; what is private, at home."""
    if function.name.startswith("_") and module is not home:
        return
    kind = ast.Attribute if isinstance(home.parents[function], ast.ClassDef) else ast.Name
    for node in _calls_in(module.name).get(function.name, ()):
        if isinstance(node.func, kind):
            yield node


@cache
def _calls_in(name: str) -> dict[str, list[ast.Call]]:
    """Return the calls in a module by what they call; trees are large, and each is asked for a thousand times."""
    module = next(module for module in modules() if module.name == name)
    found: dict[str, list[ast.Call]] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            found.setdefault(_called(node), []).append(node)
    return found


@cache
def _functions_in(name: str) -> dict[str, list[Function]]:
    """Return the functions in a module by name."""
    module = next(module for module in modules() if module.name == name)
    found: dict[str, list[Function]] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, Function):
            found.setdefault(node.name, []).append(node)
    return found


def _fits(function: Function, call: ast.Call) -> bool:
    """Whether a call has the arguments of a function: another one may have the same name."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]
    needed = set(names[: len(names) - len(arguments.defaults)])
    given = set(names[: len(call.args)]) | {k.arg for k in call.keywords if k.arg}
    return len(call.args) <= len(names) and needed <= given <= _parameters(function)


def _arguments(function: Function, call: ast.Call) -> dict[str, ast.expr]:
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
    given = dict(zip(names, (a for a in call.args if not isinstance(a, ast.Starred)), strict=False))
    return {**defaults, **given, **{k.arg: k.value for k in call.keywords if k.arg}}


# Expressions as templates


def texts(expression: ast.expr, place: Place, depth: int = 0) -> list[str]:  # noqa: PLR0911 -- one case a form
    """Return the texts an expression can be, with ``‹name›`` for what is not known before."""
    if depth > _DEPTH:
        return [_placeholder(expression)]
    match expression:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr(values=values):
            return _joined(values, place, depth)
        case ast.FormattedValue(value=value):
            return texts(value, place, depth + 1)
        case ast.BinOp(left=left, op=ast.Add(), right=right) if not _is_number(left) and not _is_number(right):
            return _joined([left, right], place, depth)
        case ast.IfExp(body=body, orelse=other):
            return _unique([*texts(body, place, depth + 1), *texts(other, place, depth + 1)])
        case ast.BoolOp(values=values):
            return _unique(text for value in values for text in texts(value, place, depth + 1))
        case ast.Name(id=name):
            return _variable(name, expression, place, depth) or [_placeholder(expression)]
        case ast.Call():
            return _returned(expression, place, depth)
    return [_placeholder(expression)]


def _joined(values: Iterable[ast.expr], place: Place, depth: int) -> list[str]:
    parts = [texts(value, place, depth + 1)[:_MOST] for value in values]
    return _unique("".join(chosen) for chosen in itertools.islice(itertools.product(*parts), _MOST))


def _unique(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))[:_MOST]


def _is_number(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Constant) and isinstance(expression.value, int | float)


def _variable(name: str, use: ast.expr, place: Place, depth: int) -> list[str]:
    if name in place.bound:
        value, where = place.bound[name]
        return texts(value, where, depth + 1)
    values = _assigned(name, use, place) or _constant(name, place.module)
    return _unique(text for value in values for text in texts(value, place, depth + 1))


def _assigned(name: str, use: ast.AST, place: Place) -> list[ast.expr]:
    """Return what a variable can have been set to where it is used: the nearest assignments above."""
    found: list[ast.expr] = []
    parents = place.module.parents
    while place.function is not None and use is not place.function and use in parents:
        for statement in reversed(_above(use, parents[use])):
            values = _assignments(name, statement)
            found += values
            if values and (isinstance(statement, ast.Assign | ast.AnnAssign) or len(values) > 1):
                return found
        use = parents[use]
    return found


def _above(statement: ast.AST, parent: ast.AST) -> list[ast.stmt]:
    """Return the statements in front of one in its block."""
    for _, block in ast.iter_fields(parent):
        if isinstance(block, list) and statement in block:
            return [node for node in block[: block.index(statement)] if isinstance(node, ast.stmt)]
    return []


def _assignments(name: str, statement: ast.stmt) -> list[ast.expr]:
    nodes = [node for node in ast.walk(statement) if isinstance(node, ast.Assign | ast.AnnAssign)]
    return [n.value for n in nodes if n.value is not None and any(_is(name, t) for t in _targets(n))]


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is(name: str, target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id == name


def _constant(name: str, module: Module) -> list[ast.expr]:
    """Return a constant of a module, or of the one it is imported from, that holds a text."""
    nodes = [n for n in module.tree.body if isinstance(n, ast.Assign | ast.AnnAssign)]
    values = [n.value for n in nodes if any(_is(name, target) for target in _targets(n))]
    for statement in module.tree.body:
        if isinstance(statement, ast.ImportFrom) and any(alias.name == name for alias in statement.names):
            homes = [m for m in modules() if f"{PACKAGE.name}.{m.name}" == statement.module]
            values += [value for home in homes for value in _constant(name, home)]
    return [v for v in values if isinstance(v, ast.Constant | ast.JoinedStr | ast.BinOp)][:1]


def _returned(call: ast.Call, place: Place, depth: int) -> list[str]:
    """Return the texts that a function of the same module returns, or a method whose name is the only one."""
    name = _called(call)
    if name in _GIVEN:
        return [_GIVEN[name]]
    homes = [place.module] if isinstance(call.func, ast.Name) else modules()
    nodes = [(home, node) for home in homes for node in _functions_in(home.name).get(name, ())]
    if len(nodes) != 1 or not _returns_text(nodes[0][1]):
        return [_placeholder(call)]
    home, node = nodes[0]
    there = Place(home, node, {k: (v, place) for k, v in _arguments(node, call).items()})
    found = [n.value for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
    return _unique(text for value in found for text in texts(value, there, depth + 1))


def _returns_text(function: Function) -> bool:
    return isinstance(function.returns, ast.Name) and function.returns.id == "str"


def _placeholder(expression: Any) -> str:  # noqa: PLR0911 -- one case a form
    """Return ``‹name›`` for a value, after the last word of the code that gives it."""
    match expression:
        case ast.Constant(value=value):
            return "‹number›" if value is None else str(value)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return f"‹{name.strip('_').replace('_', ' ')}›"
        case ast.Subscript(value=value, slice=ast.Constant(value=str(key))):
            return f"‹{key}›"
        case ast.Subscript(value=value) | ast.Starred(value=value) | ast.FormattedValue(value=value):
            return _placeholder(value)
        case ast.Call(func=ast.Name(id="len" | "sum" | "max" | "min")):
            return "‹number›"
        case ast.Call(func=ast.Attribute(attr="join")):
            return "‹list›"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]):
            return _placeholder(name) if isinstance(name, ast.Name) else "‹value›"
        case ast.Call(
            func=ast.Name(id="str" | "float" | "int" | "sorted" | "tuple" | "repr" | "list"), args=[first, *_]
        ):
            return _placeholder(first)
        case ast.Call(func=ast.Attribute(value=value, attr="strip" | "lower" | "get" | "splitlines" | "setdefault")):
            return _placeholder(value)
        case ast.Call(func=function):
            return _placeholder(function)
        case ast.BinOp():
            return "‹number›"
    return "‹…›"
