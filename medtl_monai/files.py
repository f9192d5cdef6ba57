"""Writing files so that a crash, a full disk or a second process never leaves half a file behind."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtl_monai.errors import StorageError


@contextmanager
def atomic_path(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that replaces it when the block ends without an error.

    The bytes are flushed to the disk before the rename, so after a power cut there is the old file or the new one.

    Args:
        path: The file to write.
        mode: Its permissions, from before the first byte on; None leaves them to the umask.

    Raises:
        StorageError: If the disk is full or the folder is not writable; ``path`` is then unchanged.
    """
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o666 & ~_umask() if mode is None else mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into a :class:`StorageError` that names ``path``.

    Writers in other languages (safetensors, zip) wrap these errors in types of their own; the text still says so.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left on device" in str(error):
            raise StorageError(
                "the disk is full, nothing was overwritten", where=path.name, mend="Free some space and resume"
            ) from error
        if isinstance(error, PermissionError):
            mend = "Check the folder's permissions"
            raise StorageError("not allowed to write", where=path.name, mend=mend) from error
        raise


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write ``text`` atomically as UTF-8, with the permissions ``mode`` where given."""
    with atomic_path(path, mode=mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as indented JSON; NaN becomes null, which every reader understands."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Return ``value`` with NaN and infinities replaced by None, in nested lists and mappings."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
