"""The bytes of an https address into a partial file: ranges, redirects, retries, and limits."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests

from medtl_monai.errors import StorageError, WeightsError
from medtl_monai.transfer.downloaded import url_key

Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes there will be."""

TIMEOUT_S = (10.0, 60.0)
"""Longest wait for a connection, and for the next bytes."""
ATTEMPTS = 5
"""Attempts in a row that bring next to nothing."""
PAUSE_S = 0.5
"""Pause before the second attempt; it doubles each time."""

_CHUNK = 1 << 16
_GAIN = 1 << 20
_REDIRECTS = 5
_LONGEST_PAUSE_S = 30.0
_RETRY = (408, 425, 429, 500, 502, 503, 504)
_MEND_SERVER = "Get the file yourself and pass it with --weights FILE"
_MEND_AGAIN = "Try again: what has arrived is kept, and the download goes on from there"


@dataclasses.dataclass(frozen=True)
class Part:
    """A download that is not complete, and what is needed to go on with it.

    Attributes:
        path: The bytes so far.
    """

    path: Path

    @property
    def size(self) -> int:
        """Number of bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def notes(self) -> Path:
        """The file beside it that says which version of which address it is."""
        return self.path.with_suffix(".json")

    def validator(self, url: str) -> str | None:
        """Return what the server called this version of the file; None if the bytes are of another address."""
        try:
            value = json.loads(self.notes.read_text(encoding="utf-8"))
            return str(value["validator"]) if value["url"] == url_key(url) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, url: str, validator: str) -> None:
        """Start anew."""
        self.discard()
        self.notes.write_text(json.dumps({"url": url_key(url), "validator": validator}), encoding="utf-8")

    def discard(self) -> None:
        """Forget everything."""
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetch:
    """One file to be fetched.

    Attributes:
        url: Its address.
        part: Where the bytes go.
        size: The number of bytes it must have; None if not known.
        max_bytes: The most that is accepted.
        checked: Whether the bytes are compared with a known hash afterwards: then a server that does not name its
            versions may be asked to go on, too.
        where: What the file is called in messages.
        progress: Told how far it is.
    """

    url: str
    part: Part
    size: int | None
    max_bytes: int
    checked: bool
    where: str
    progress: Progress | None = None

    def run(self) -> None:
        """Fetch what is missing.

        Raises:
            WeightsError: If the server refuses, has another number of bytes, or the connection keeps failing.
            StorageError: If the disk has no room for it.
        """
        failures, furthest = 0, self.part.size
        with requests.Session() as session:
            while True:
                try:
                    reason, pause = self._attempt(session)
                except (requests.exceptions.SSLError, ValueError) as error:
                    # ValueError: requests says so of addresses that are none.
                    raise _refused(error, self.url, self.where) from error
                except requests.RequestException as error:
                    reason, pause = f"{urlsplit(self.url).hostname}: {_describe(error)}", 0.0
                if not reason:
                    return
                # What was had before and thrown away is no progress.
                failures = 1 if self.part.size - furthest >= _GAIN else failures + 1
                furthest = max(furthest, self.part.size)
                if failures >= ATTEMPTS:
                    have = f"after {self.part.size} of {self.size} bytes" if self.size else f"at {self.part.size} bytes"
                    what = f"the download stopped {have} ({reason})"
                    raise WeightsError(what, where=self.where, mend=_MEND_AGAIN)
                time.sleep(min(max(pause, PAUSE_S * 2 ** (failures - 1)), _LONGEST_PAUSE_S))

    def _attempt(self, session: requests.Session) -> tuple[str, float]:
        """Ask once; return why to ask again, empty when done, and the pause that the server wishes."""
        have = self.part.size
        if self.size is not None and have == self.size:
            return "", 0.0
        headers = self._range(have)
        with _get(session, self.url, {"Accept-Encoding": "identity", **headers}, self.where) as response:
            host, status = urlsplit(self.url).hostname, response.status_code
            if status == requests.codes.requested_range_not_satisfiable:
                self.part.discard()
                return f"{host}: the file has changed", 0.0
            if status in _RETRY:
                return f"{host}: HTTP {status}", _wished_pause(response)
            if status not in (200, 206):
                mend = _MEND_SERVER if status != 404 else f"Check the address. {_MEND_SERVER}"
                raise WeightsError(f"{host} answered HTTP {status}", where=self.where, mend=mend)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise WeightsError(f"{host} sends the file recoded", where=self.where, mend=_MEND_SERVER)
            if status == 206 and not _continues(response, have):
                self.part.discard()
                return f"{host}: it answered with another part of the file", 0.0
            return self._receive(response, have if status == 206 else 0), 0.0

    def _range(self, have: int) -> dict[str, str]:
        validator = self.part.validator(self.url)
        if not have or not (validator or self.checked):
            return {}
        return {"Range": f"bytes={have}-"} | ({"If-Range": validator} if validator else {})

    def _receive(self, response: requests.Response, have: int) -> str:
        total = self._total(response, have)
        if have == 0:
            self.part.begin(self.url, _validator(response))
        _check_room(self.part.path.parent, (total or 0) - have, self.where)
        with self.part.path.open("ab") as file:
            for chunk in response.iter_content(_CHUNK):
                have += len(chunk)
                if have > (total or self.max_bytes):
                    file.close()
                    self.part.discard()
                    raise self._too_large(f"more than {total or self.max_bytes}")
                file.write(chunk)
                if self.progress is not None and total:
                    self.progress(have, total)
        short = total is not None and have < total
        return f"{urlsplit(self.url).hostname}: {have} of {total} bytes" if short else ""

    def _total(self, response: requests.Response, have: int) -> int | None:
        """Return how many bytes the whole file has; it is refused before the first byte if that is wrong."""
        declared = response.headers.get("Content-Length", "")
        total = have + int(declared) if declared.isdigit() else None
        if total is not None and self.size is not None and total != self.size:
            self.part.discard()
            what = f"{urlsplit(self.url).hostname} has {total} bytes, the weights declare {self.size}"
            raise WeightsError(what, where=self.where, mend="It is another file: tell whoever offers the weights")
        total = self.size if total is None else total
        if total is not None and total > self.max_bytes:
            self.part.discard()
            raise self._too_large(str(total))
        return total

    def _too_large(self, found: str) -> WeightsError:
        what = f"the file has {found} bytes, {self.size or self.max_bytes} are accepted"
        return WeightsError(what, where=self.where, mend="Make sure that it is the right file")


def check_address(url: str, where: str, *, before: str = "") -> None:
    """Refuse an address that is not encrypted or holds a password; ``before`` is where a redirect came from.

    Plain http is for servers on this very machine.

    Raises:
        WeightsError: If it may not be asked.
    """
    try:
        parts = urlsplit(url)
        host, scheme, named = parts.hostname or "", parts.scheme, parts.username or parts.password
    except ValueError:
        host, scheme, named = "", "", None
    if named:
        mend = "Put them into ~/.netrc (or the file NETRC names), and leave them out of the address"
        raise WeightsError("the address holds a user name or password", where=where, mend=mend)
    local = scheme == "http" and _is_loopback(host) and not before.startswith("https:")
    if not host or not (scheme == "https" or local):
        how = f"redirected to {scheme}" if before else f"{scheme or 'no'} address"
        mend = "Use an https address, or get the file yourself and pass it with --weights FILE"
        raise WeightsError(f"weights are downloaded over https only ({how})", where=where, mend=mend)


def _get(session: requests.Session, url: str, headers: dict[str, str], where: str) -> requests.Response:
    """Follow redirects one by one, since each must be allowed."""
    before = ""
    for _ in range(_REDIRECTS + 1):
        check_address(url, where, before=before)
        response = session.get(url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT_S)
        if not response.is_redirect:
            return response
        response.close()
        before, url = url, urljoin(url, response.headers["Location"])
    raise WeightsError("the server redirects without end", where=where, mend=_MEND_SERVER)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _validator(response: requests.Response) -> str:
    """Return what If-Range may hold: a strong ETag or a date (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, have: int) -> bool:
    return response.headers.get("Content-Range", "").replace("=", " ").startswith(f"bytes {have}-")


def _wished_pause(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _check_room(folder: Path, needed: int, where: str) -> None:
    if needed > shutil.disk_usage(folder).free:
        mend = "Free some space, or name another folder with MEDTL_WEIGHTS"
        raise StorageError(f"the disk has no room for {needed} bytes", where=where, mend=mend)


def _describe(error: requests.RequestException) -> str:
    """Say what failed without the address, which the libraries' own texts hold."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy cannot be reached"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    return "no connection"


def _refused(error: Exception, url: str, where: str) -> WeightsError:
    if isinstance(error, requests.exceptions.SSLError):
        what = f"the certificate of {urlsplit(url).hostname} is not trusted"
        mend = "If your network has a certificate authority of its own, name its file in REQUESTS_CA_BUNDLE"
        return WeightsError(what, where=where, mend=mend)
    return WeightsError("that is not an address", where=where, mend="Check how it is written")
