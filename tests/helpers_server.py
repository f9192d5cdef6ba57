"""A web server on this machine whose misbehaviour is scripted."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Server:
    """What it serves and what it was asked.

    Attributes:
        data: The bytes of every path.
        cuts: After how many bytes of the body the connection is cut, one entry a request; then never.
        statuses: What is answered instead, one entry a request; 0 answers as usual.
        redirects: Path to address.
        ranges: Whether it can go on in the middle.
        etag: Name of the version; empty for none.
        length: Whether it says how long the body is.
        encoding: Content-Encoding.
        declared: A wrong length, or None.
        requests: ``(path, Range header, If-Range header)`` of each request.
    """

    data: bytes = b""
    cuts: list[int] = dataclasses.field(default_factory=list)
    statuses: list[int] = dataclasses.field(default_factory=list)
    redirects: dict[str, str] = dataclasses.field(default_factory=dict)
    ranges: bool = True
    etag: str = '"v1"'
    length: bool = True
    encoding: str = ""
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    base: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def url(self, path: str = "/w.pt") -> str:
        return self.base + path


@contextlib.contextmanager
def serving(data: bytes = b"", handler=None, **options):
    """Yield a :class:`Server` that runs until the block ends."""
    state = Server(data=data, **options)

    class Handler(handler or Answer):
        server_state = state

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.base = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        state = self.server_state
        asked, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        state.requests.append((self.path, asked, condition))
        status = state.statuses.pop(0) if state.statuses else 0
        if self.path in state.redirects:
            self.send_response(302)
            self.send_header("Location", state.redirects[self.path])
            return self.end(b"")
        if status:
            self.send_response(status)
            return self.end(b"no")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
        if condition and condition != state.etag:
            start = 0
        if start >= len(state.data) > 0:
            self.send_response(416)
            return self.end(b"")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}")
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.encoding:
            self.send_header("Content-Encoding", state.encoding)
        return self.end(state.data[start:], cut=state.cuts.pop(0) if state.cuts else None)

    def end(self, body, cut=None):
        if self.server_state.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        self.close_connection = True
