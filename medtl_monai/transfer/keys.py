"""Names of tensors in weights files: mapping them to the model's, and finding the mapping that is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from medtl_monai.errors import WeightsError

KeyMap = Sequence[tuple[str, str]]


def map_key(key: str, key_map: KeyMap) -> str:
    """Apply ``(old prefix, new prefix)`` pairs to one key, in order; an old prefix ``""`` prepends."""
    for old, new in key_map:
        if key.startswith(old):
            key = new + key[len(old) :]
    return key


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


def _suffixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def _matches(pair: tuple[str, str], file_keys: Collection[str], model_keys: set[str]) -> int:
    old, new = pair
    return sum(new + key[len(old) :] in model_keys for key in file_keys if key.startswith(old))
