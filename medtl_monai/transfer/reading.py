"""Reading weights files: the bytes are checked first, and nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from medtl_monai.errors import WeightsError
from medtl_monai.transfer.downloaded import MAX_BYTES

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "params")


def read_state(
    path: Path, *, sha256: str | None = None, max_bytes: int = MAX_BYTES, where: str = ""
) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a safetensors or torch file, without ever executing what is in it.

    The bytes are hashed before anything is parsed, and the bytes that were hashed are the ones parsed.

    Args:
        path: The file.
        sha256: Expected hash; None accepts any (the hash is returned to be recorded).
        max_bytes: Largest size accepted.
        where: What to call the file in messages. Default: its name.

    Returns:
        The tensors by name, on the CPU, and the hash.

    Raises:
        WeightsError: If the file is missing, too large, not the expected bytes, truncated, of an unknown format, or
            holds code or anything but tensors.
    """
    where = where or path.name
    data = _read_bytes(path, max_bytes, where)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        what = f"the file's sha256 is {found[:12]}…, expected is {sha256[:12].lower()}…"
        raise WeightsError(what, where=where, mend="Get the file again: it is damaged or another one")
    tree = _parse(data, where)
    return _state_of(tree, where), found


def _read_bytes(path: Path, max_bytes: int, where: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise WeightsError("no such weights file", where=where, mend="Check the path") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WeightsError(f"the file cannot be read ({reason})", where=where, mend="Check its permissions") from error
    if len(data) > max_bytes:
        what = f"the file is larger than {max_bytes} bytes"
        raise WeightsError(what, where=where, mend="Make sure that it is the right file, or raise the limit")
    if not data:
        raise WeightsError("the file is empty", where=where, mend="Get it again")
    return data


def _parse(data: bytes, where: str) -> Any:
    header = int.from_bytes(data[:8], "little")
    if data[8:9] == b"{" and header < 100_000_000:
        try:
            return parse_safetensors(data)
        except (SafetensorError, ValueError) as error:
            raise _damaged(where) from error
    if not data.startswith((b"PK\x03\x04", b"\x80")):
        mend = "Use a safetensors file, or one that torch.save wrote"
        raise WeightsError("the file is neither safetensors nor a torch file", where=where, mend=mend)
    return _parse_torch(data, where)


def _parse_torch(data: bytes, where: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        if "weights only" not in str(error).lower():
            raise _damaged(where) from error
        mend = "Save its state_dict() alone, best as safetensors"
        what = "the file holds Python objects, not only tensors; reading them could run code"
        raise WeightsError(what, where=where, mend=mend) from error
    except Exception as error:
        # torch raises whatever its readers meet in a broken file: RuntimeError, EOFError, KeyError, ValueError, …
        raise _damaged(where) from error


def _damaged(where: str) -> WeightsError:
    return WeightsError("the file is damaged or incomplete", where=where, mend="Get it again")


def _state_of(tree: Any, where: str) -> dict[str, Tensor]:
    """Return the mapping of tensors in what was read: the whole, or the one entry that is such a mapping."""
    if isinstance(tree, Mapping):
        if _is_state(tree):
            return {str(key): value for key, value in tree.items() if isinstance(value, Tensor)}
        nested = [name for name, value in tree.items() if isinstance(value, Mapping) and _is_state(value)]
        known = [name for name in _WRAPPERS if name in nested] or nested
        if len(known) == 1:
            return _state_of(tree[known[0]], where)
        if known:
            mend = "Save the one that is meant in a file of its own"
            names = ", ".join(sorted(map(repr, known)))
            raise WeightsError(f"the file holds several sets of weights ({names})", where=where, mend=mend)
    raise WeightsError("the file holds no tensors by name", where=where, mend="Save a model's state_dict()")


def _is_state(value: Mapping[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
