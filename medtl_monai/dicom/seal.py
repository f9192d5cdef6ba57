"""What an index keeps is sealed: without the user's key, its file tells nothing about anybody.

An index must hold what its files say of patients, or a scan could not be repeated without reading them. Cache folders
are copied, backed up and shared by mistake, so the records are encrypted (AES-256-GCM) and names are keyed hashes.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_NAME = 16


class Seal:
    """Closes and opens records with one key.

    Args:
        key: The secret; what is closed can be opened with the same one only.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._names = self._derived(b"medtl index: names")

    def __reduce__(self) -> tuple[type[Seal], tuple[bytes]]:
        return Seal, (self._key,)

    def _derived(self, use: bytes) -> bytes:
        return hmac.new(self._key, use, hashlib.sha256).digest()

    @functools.cached_property
    def _cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._derived(b"medtl index: records"))

    def name(self, *parts: str) -> bytes:
        """Return a keyed hash of the parts: equal for equal parts, and nothing else can be told from it."""
        # Lengths keep ("a", "bc") apart from ("ab", "c").
        return self.digest(b"".join(len(data).to_bytes(4, "big") + data for data in map(os.fsencode, parts)))

    def digest(self, data: bytes) -> bytes:
        """Return a keyed hash of any data."""
        return hashlib.blake2b(data, key=self._names, digest_size=_NAME).digest()

    def close(self, value: Any) -> bytes:
        """Return plain JSON values, packed and encrypted."""
        nonce = os.urandom(_NONCE)
        data = zlib.compress(json.dumps(value, separators=(",", ":")).encode("ascii"), 1)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def open(self, sealed: bytes) -> Any:
        """Return what was closed.

        Raises:
            ValueError: It was closed with another key, or has been changed since.
        """
        from cryptography.exceptions import InvalidTag

        try:
            data = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError) as error:
            raise ValueError("sealed with another key, or damaged") from error
        return json.loads(zlib.decompress(data))
