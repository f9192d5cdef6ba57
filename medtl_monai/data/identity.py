"""Pseudonyms: case and group ids from a key that stays on this machine (or in this team).

A plain hash of a StudyInstanceUID or PatientID can be undone by trying all likely values; an HMAC under a secret key
cannot. The same key gives the same ids, so teams share it through ``MEDTL_ID_KEY``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from medtl_monai.errors import ConfigError, StorageError
from medtl_monai.files import translate_os_errors

ID_LENGTH = 12
"""Hex digits of a pseudonym: 48 bits, so a million cases collide with a chance of 0.2 % (and that is checked)."""

KEY_VARIABLE = "MEDTL_ID_KEY"
_SHORTEST_KEY = 16


def load_key() -> bytes:
    """Return the key: ``MEDTL_ID_KEY``, else the user's key file, which is made (mode 0600) on first use.

    Raises:
        ConfigError: If the key is too short to keep anything secret.
        StorageError: If the key file can neither be read nor made.
    """
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if text:
        return _long_enough(text.encode(), KEY_VARIABLE)
    path = key_path()
    try:
        if not path.exists():
            _make_key(path)
        return _long_enough(path.read_bytes().strip(), path.name)
    except (OSError, StorageError) as error:
        mend = f"Set {KEY_VARIABLE} to a long random text"
        raise StorageError("the key for case ids can neither be read nor made", where=path.name, mend=mend) from error


def key_path() -> Path:
    """Return where the user's key file is: ``$XDG_CONFIG_HOME/medtl/id.key`` or ``~/.config/medtl/id.key``."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return folder / "medtl" / "id.key"


def pseudonym(key: bytes, *parts: str) -> str:
    """Return the first 12 hex digits of HMAC-SHA256 over the parts, which a NUL separates."""
    return hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()[:ID_LENGTH]


def _make_key(path: Path) -> None:
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # mkstemp opens with mode 0600; the link fails where another process was first, whose key then counts.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".id.key.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink(missing_ok=True)


def _long_enough(key: bytes, where: str) -> bytes:
    if len(key) < _SHORTEST_KEY:
        what = f"the key for case ids has {len(key)} characters"
        raise ConfigError(what, where=where, mend=f"Use at least {_SHORTEST_KEY} random characters")
    return key
