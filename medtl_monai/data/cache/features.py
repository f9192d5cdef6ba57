"""Features of frozen layers on disk, beside the preprocessed cases and under the same bound."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from medtl_monai.data.cache.entry import Array, Damaged
from medtl_monai.data.cache.store import Store

_LENGTH = 40


class FeatureCache:
    """Features by what they are made from: the very voxels, and a text that says what was done to them.

    An entry can therefore serve any run that does the same to the same voxels, whatever it learns, and is never stale.

    Args:
        store: The entries.
        secret: The key of pseudonyms, which entries are named with.
    """

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store = store
        self._secret = secret

    @property
    def trouble(self) -> str:
        """Why nothing more is written; empty while all is well."""
        return self._store.trouble

    @property
    def max_bytes(self) -> int:
        """Upper bound of everything that is kept in the folder."""
        return self._store.max_bytes

    def key(self, image: Tensor, made: str) -> str:
        """Return the name of an entry, 40 hex digits.

        Args:
            image: ``[C, *S]`` as the network gets it.
            made: What decides the features beside it: weights, layers, arithmetic.
        """
        digest = hmac.new(self._secret, b"features\0" + made.encode(), hashlib.sha256)
        digest.update(f"\0{tuple(image.shape)}{image.dtype}\0".encode())
        digest.update(np.ascontiguousarray(image.numpy()).data)
        return digest.hexdigest()[:_LENGTH]

    def find(self, key: str) -> dict[str, Tensor] | None:
        """Return what was stored under a key, read from the disk; None if it is not there or damaged."""
        entry = self._store.find(key)
        if entry is None:
            return None
        try:
            arrays = {name: np.array(entry.open(name)) for name in entry.names}
        except Damaged:
            return None
        return {name: _tensor(array, entry.facts["dtypes"][name]) for name, array in arrays.items()}

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Store tensors; say whether there was room."""
        arrays = {name: _array(tensor) for name, tensor in tensors.items()}
        return self._store.put(key, arrays, {"dtypes": {n: _name(t.dtype) for n, t in tensors.items()}}) is not None


def _array(tensor: Tensor) -> Array:
    # numpy has no bfloat16: its bits are stored.
    plain: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return plain


def _tensor(array: Array, dtype: str) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
