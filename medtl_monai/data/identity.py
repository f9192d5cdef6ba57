"""Pseudonyms: case and group ids from a key that stays on this machine (or in this team).

A plain hash of a StudyInstanceUID or PatientID can be undone by trying all likely values; an HMAC under a secret key
cannot. The same key gives the same ids, so teams share it: as a file (``MEDTL_ID_KEY_FILE``, or ``medtl key --export``
and ``--import``) or as text (``MEDTL_ID_KEY``).
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from functools import lru_cache
from pathlib import Path

from medtl_monai.errors import ConfigError, StorageError
from medtl_monai.files import translate_os_errors, write_text

ID_LENGTH = 12
"""Hex digits of a pseudonym: 48 bits, so a million cases collide with a chance of 0.2 % (and that is checked)."""

KEY_VARIABLE = "MEDTL_ID_KEY"
FILE_VARIABLE = "MEDTL_ID_KEY_FILE"
_SHORTEST_KEY = 16
_ROUNDS = 200_000


def load_key() -> bytes:
    """Return the key: ``MEDTL_ID_KEY``, else the file ``MEDTL_ID_KEY_FILE``, else the user's own file.

    The user's own file is made (mode 0600) on first use.

    Raises:
        ConfigError: If the key is too short to keep anything secret, its file is not there, or others may read it.
        StorageError: If the user's own file can neither be read nor made.
    """
    text = os.environ.get(KEY_VARIABLE, "").strip()
    if text:
        return _long_enough(text.encode(), KEY_VARIABLE)
    given = os.environ.get(FILE_VARIABLE, "").strip()
    if given:
        return read_key(Path(given).expanduser())
    path = key_path()
    try:
        if not path.exists():
            _make_key(path)
        return read_key(path, mine=True)
    except (OSError, StorageError) as error:
        mend = f"Set {KEY_VARIABLE} to a long random text"
        raise StorageError("the key for case ids can neither be read nor made", where=path.name, mend=mend) from error


def read_key(path: Path, *, mine: bool = False) -> bytes:
    """Read a key file.

    Args:
        path: The file.
        mine: Whether it is the user's own. A team's file may be readable by a group, one's own may not.

    Raises:
        ConfigError: If it is not there or cannot be read, others may read it, or the key is too short.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_bytes()
    except OSError as error:
        if mine:
            raise
        what = f"the file with the key for case ids cannot be read ({error.strerror})"
        raise ConfigError(what, where=path.name, mend=f"Check {FILE_VARIABLE}, or ask your team for it") from error
    wide = stat.S_IMODE(mode) & (0o077 if mine else 0o007)
    if wide and os.name == "posix":
        what = f"others may read the key for case ids (mode {stat.S_IMODE(mode):04o}), so it keeps nothing secret"
        raise ConfigError(
            what, where=path.name, mend=f"Take it away from them: chmod {'600' if mine else 'o-rwx'} FILE"
        )
    return _long_enough(text.strip(), path.name)


def key_source() -> str | Path:
    """Return where :func:`load_key` takes the key from: the name of a variable, or a file."""
    if os.environ.get(KEY_VARIABLE, "").strip():
        return KEY_VARIABLE
    given = os.environ.get(FILE_VARIABLE, "").strip()
    return Path(given).expanduser() if given else key_path()


def key_path() -> Path:
    """Return where the user's key file is: ``$XDG_CONFIG_HOME/medtl/id.key`` or ``~/.config/medtl/id.key``."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".config"
    return folder / "medtl" / "id.key"


@lru_cache(maxsize=8)
def fingerprint(key: bytes) -> str:
    """Return 12 hex digits that tell whether two keys are the same and say nothing else about them.

    Runs and splits hold it. It is slow on purpose (PBKDF2), so a key that people made up is not found by trying.
    """
    return hashlib.pbkdf2_hmac("sha256", key, b"medtl id key", _ROUNDS).hex()[:ID_LENGTH]


def check_key(stored: str | None, *, where: str) -> None:
    """Refuse to go on with case ids that were made with another key than today's.

    Args:
        stored: Fingerprint of their key; None or empty where none was noted, which passes.
        where: What holds the ids.

    Raises:
        ConfigError: If the keys differ.
    """
    if not stored:
        return
    # Where there is no key yet, none is made: it would be in the way of the one to import.
    absent = key_source() == key_path() and not key_path().exists()
    mine = "" if absent else fingerprint(load_key())
    if stored != mine:
        raise ConfigError(
            f"its case ids were made with another id key (fingerprint {stored}, "
            f"{f'yours is {mine}' if mine else 'you have none yet'})",
            where=where,
            mend=f"Use that key: 'medtl key --import FILE', or {FILE_VARIABLE}; 'medtl key' shows yours",
        )


def export_key(path: Path) -> None:
    """Write the key in use to a new file (mode 0600).

    Raises:
        ConfigError: If there is a file already.
        StorageError: If it cannot be written.
    """
    if path.exists():
        raise ConfigError("the file exists, and it may be a key", where=path.name, mend="Choose another name")
    write_text(path, load_key().decode("utf-8", "surrogateescape") + "\n", mode=0o600)


def import_key(path: Path, *, replace: bool = False) -> Path | None:
    """Make the key in a file the user's own.

    Args:
        path: The file.
        replace: Whether another key may give way; it is kept beside the new one.

    Returns:
        Where the key that was there before is kept; None where there was none or the same.

    Raises:
        ConfigError: If the file holds no key, or another one is there and may not give way.
        StorageError: If it cannot be written.
    """
    key, mine = read_key(path), key_path()
    kept = None
    if mine.exists():
        old = mine.read_bytes().strip()
        if old == key:
            return None
        if not replace:
            what = f"you have another key (fingerprint {fingerprint(old)}), and your runs hold ids made with it"
            raise ConfigError(what, where=mine.name, mend="Replace it with --replace; the old one is kept")
        kept = mine.with_name(f"id.key.{fingerprint(old)}")
        write_text(kept, old.decode("utf-8", "surrogateescape") + "\n", mode=0o600)
    with translate_os_errors(mine):
        mine.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(mine, key.decode("utf-8", "surrogateescape") + "\n", mode=0o600)
    return kept


def pseudonym(key: bytes, *parts: str) -> str:
    """Return the first 12 hex digits of HMAC-SHA256 over the parts, which a NUL separates."""
    return hmac.new(key, "\0".join(parts).encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:ID_LENGTH]


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
