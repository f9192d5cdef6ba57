"""Names of tensors in weights files: mapping them to the model's, and finding the mapping that is missing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from medtl_monai.errors import WeightsError

KeyMap = Sequence[tuple[str, str]]
"""``(old prefix, new prefix)`` pairs; an old one that starts with ``re:`` is a regular expression."""

REGEX = "re:"


def map_key(key: str, key_map: KeyMap) -> str:
    r"""Apply the pairs to one key, in order; those that do not fit it change nothing.

    A prefix ``""`` prepends. ``("re:PATTERN", REPLACEMENT)`` replaces what the pattern matches, the first time it does,
    as :func:`re.sub` does it (``\1`` is a group).

    Raises:
        WeightsError: If a pattern is not a regular expression.
    """
    for old, new in key_map:
        if old.startswith(REGEX):
            key = _replace(old.removeprefix(REGEX), new, key)
        elif key.startswith(old):
            key = new + key[len(old) :]
    return key


def best_dialect(
    keys: Collection[str], wanted: Collection[str], dialects: Mapping[str, KeyMap]
) -> tuple[str, dict[str, str], int]:
    """Find the way of naming that a file's keys are written in.

    Args:
        keys: The file's keys.
        wanted: The model's.
        dialects: Key maps by name.

    Returns:
        The dialect's name, ``{mapped key: file key}``, and how many are the model's. The name is empty where no dialect
        gives more than the keys as they are.
    """
    known = set(wanted)
    best = ("", {key: key for key in keys}, sum(key in known for key in keys))
    for name, key_map in dialects.items():
        try:
            mapped = map_keys(keys, key_map)
        except WeightsError:
            # Two keys would get one name: the file is not written in this dialect.
            continue
        hits = sum(key in known for key in mapped)
        if hits > best[2]:
            best = (name, mapped, hits)
    return best


def map_keys(keys: Collection[str], key_map: KeyMap, *, source: str = "") -> dict[str, str]:
    """Return ``{mapped key: file key}``.

    Raises:
        WeightsError: If two keys are mapped to one.
    """
    mapped: dict[str, str] = {}
    for key in keys:
        new = map_key(key, key_map)
        if new in mapped:
            mend = "Correct the key map: no two tensors may get one name"
            raise WeightsError(f"keys {mapped[new]!r} and {key!r} both map to {new!r}", where=source, mend=mend)
        mapped[new] = key
    return mapped


def suggest_prefixes(file_keys: Collection[str], model_keys: Collection[str]) -> tuple[str, str, int] | None:
    """Find the pair of prefixes that would make most of the file's keys the model's.

    Returns:
        ``(prefix in the file, prefix in the model, tensors that would match)``, or None if no pair matches any.
    """
    endings: dict[str, list[str]] = defaultdict(list)
    for key in file_keys:
        for suffix in _suffixes(key):
            endings[suffix].append(key[: -len(suffix)])
    votes: Counter[tuple[str, str]] = Counter()
    for key in model_keys:
        for suffix in _suffixes(key):
            # The longest common ending decides; short ones such as "weight" say nothing.
            if suffix in endings and suffix.count(".") >= 1:
                votes.update((prefix, key[: -len(suffix)]) for prefix in endings[suffix][:3])
                break
    wanted = set(model_keys)
    best = max(
        (pair for pair, _ in votes.most_common(8)),
        key=lambda pair: _matches(pair, file_keys, wanted),
        default=None,
    )
    if best is None:
        return None
    return (*best, _matches(best, file_keys, wanted))


def wrapped_dialect(
    keys: Collection[str], wanted: Collection[str], dialects: Mapping[str, KeyMap]
) -> tuple[str, str, int] | None:
    """Find a prefix behind which a file's keys are written in a dialect, such as ``module.``.

    Returns:
        ``(prefix, dialect, tensors that would match)``, or None if there is none.
    """
    parts = common_prefix(keys).split(".")[:-1]
    found = []
    for depth in range(1, len(parts) + 1):
        prefix = "".join(f"{part}." for part in parts[:depth])
        name, _, hits = best_dialect([key[len(prefix) :] for key in keys], wanted, dialects)
        if name:
            found.append((prefix, name, hits))
    return max(found, key=lambda each: each[2], default=None)


def common_prefix(keys: Collection[str]) -> str:
    """Return the dotted prefix that all keys share, such as ``"module.backbone."``; empty if there is none."""
    parts: Mapping[int, Counter[str]] = defaultdict(Counter)
    for key in keys:
        for depth, part in enumerate(key.split(".")[:-1]):
            parts[depth][part] += 1
    shared = []
    for depth in range(len(parts)):
        part, count = parts[depth].most_common(1)[0]
        if count < len(keys):
            break
        shared.append(part)
    return "".join(f"{part}." for part in shared)


def _replace(pattern: str, new: str, key: str) -> str:
    try:
        return re.sub(pattern, new, key, count=1)
    except (re.error, IndexError) as error:
        mend = "Correct it: it is read by Python's re module"
        raise WeightsError(f"the key map's pattern {pattern!r} with {new!r} is wrong ({error})", mend=mend) from error


def _suffixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _matches(pair: tuple[str, str], file_keys: Collection[str], model_keys: set[str]) -> int:
    old, new = pair
    return sum(new + key[len(old) :] in model_keys for key in file_keys if key.startswith(old))
