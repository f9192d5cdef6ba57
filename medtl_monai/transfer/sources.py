"""Where weights come from: finding the file, checking its bytes, and reading tensors without executing anything."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import io
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from medtl_monai.errors import WeightsError

MAX_BYTES = 8 * 1024**3
"""Largest weights file that is read by default: 8 GiB."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "params")
_REMOTE = ("https:", "http:", "hf:", "s3:", "gs:", "ftp:")


def resolve_source(uris: Sequence[str], *, where: str = "") -> Path:
    """Return the first of ``uris`` that is a file on this machine.

    Understood are a path, ``file:PATH`` and ``package:DISTRIBUTION/RESOURCE`` (a file inside an installed package).

    Args:
        uris: Where the bytes may be, tried in order.
        where: What the weights are called in messages.

    Raises:
        WeightsError: If none of them is there; the message says why for each.
    """
    reasons = []
    for uri in uris:
        if uri.startswith(_REMOTE):
            reasons.append(f"{uri.split(':')[0]}: downloading is not available in this version")
            continue
        found = _package_file(uri[len("package:") :]) if uri.startswith("package:") else _local(uri)
        if found is not None:
            return found
        reasons.append(f"{uri if uri.startswith('package:') else Path(uri).name}: no such file")
    what = f"the weights are not on this machine ({'; '.join(reasons)})"
    raise WeightsError(what, where=where, mend="Download the file yourself and pass it with --weights FILE")


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


def _local(uri: str) -> Path | None:
    text = uri[len("file:") :] if uri.startswith("file:") else uri
    if uri.startswith("file:///"):
        text = text[2:]
    path = Path(text).expanduser()
    return path if path.is_file() else None


def _package_file(reference: str) -> Path | None:
    distribution, _, resource = reference.partition("/")
    parts = PurePosixPath(resource).parts
    if not parts or ".." in parts or resource.startswith("/"):
        return None
    try:
        path = Path(str(importlib.metadata.distribution(distribution).locate_file(resource)))
        if path.is_file():
            return path
        # An editable install keeps its files elsewhere; the import system knows where.
        path = Path(str(importlib.resources.files(parts[0]).joinpath(*parts[1:])))
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError, TypeError):
        return None
    return path if path.is_file() else None


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
