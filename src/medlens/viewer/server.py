"""The viewer's server: this machine only, to who holds the link, and to no other page of the browser.

What is promised, and why. The socket is bound to 127.0.0.1, so no other machine reaches it. The link holds a random token, so no
other user of this machine does. A page of another origin that the same browser shows could still ask in that browser's name: its
requests are refused by `Host` (DNS rebinding), `Origin` and `Sec-Fetch-Site`. Routes are a fixed set: no path that is asked for
reaches the file system. Nothing can be changed: GET alone.
"""

from __future__ import annotations

import errno
import hmac
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from medlens.errors import BadInput, MedlensError
from medlens.viewer.data import Shown, piece
from medlens.viewer.files import STATIC

LOOPBACK = "127.0.0.1"
HTML, PIECE = "text/html; charset=utf-8", "application/octet-stream"
KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
GUARDS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PATIENCE = 20.0  # seconds for one request to come in


class Page(NamedTuple):
    kind: str
    content: bytes


class Server(ThreadingHTTPServer):
    """runs: one or two. port: 0 for any that is free. Raises BadInput where the port is taken."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, runs: Sequence[Shown], port: int = 0) -> None:
        self.runs, self.token = list(runs), secrets.token_urlsafe(24)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as e:
            if e.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is in use" if e.errno == errno.EADDRINUSE else "may not be used"
            raise BadInput(f"port {port} {why}: choose another --port, or none for any that is free") from e
        self.origins = {f"http://{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.cookie = f"medlens-{self.server_port}"  # cookies are shared by all ports of a host

    @property
    def link(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    def page(self, path: str) -> Page | None:
        """What is at a path; None where nothing is."""
        if path == "/":
            return Page(HTML, STATIC["index.html"].encode())
        name = path.removeprefix("/static/")
        if path.startswith("/static/") and name in STATIC and name != "index.html":
            return Page(KINDS[name.rpartition(".")[2]], STATIC[name].encode())
        if path.startswith("/data/") and (found := piece(self.runs, path.removeprefix("/data/"))):
            return Page(PIECE, found)
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        given = parse_qs(asked.query).get("token", [""])[0]
        if refused := self._refused(given):
            return self._send(HTTPStatus.FORBIDDEN, Page("text/plain", refused.encode()))
        try:
            page = self.server.page(asked.path)
        except Exception as e:  # of a damaged run: the next sample may be whole
            said = str(e) if isinstance(e, MedlensError) else type(e).__name__
            return self._send(HTTPStatus.INTERNAL_SERVER_ERROR, Page("text/plain; charset=utf-8", said.encode()))
        if page is None:
            return self._send(HTTPStatus.NOT_FOUND, Page("text/plain", b"nothing is here"))
        keep = f"{self.server.cookie}={self.server.token}; Path=/; HttpOnly; SameSite=Strict" if asked.path == "/" else None
        return self._send(HTTPStatus.OK, page, keep)

    def _refused(self, given: str) -> str:
        """Why this request is not answered; empty where it is."""
        if f"http://{self.headers.get('Host', '')}" not in self.server.origins:
            return "asked for under another name than this machine's"
        if self.headers.get("Origin", next(iter(self.server.origins))) not in self.server.origins:
            return "asked for by a page of another origin"
        opened = self.headers.get("Sec-Fetch-Mode") == "navigate"  # somebody follows the link
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not (opened and given):
            return "asked for by a page of another origin"
        if not any(hmac.compare_digest(said.encode(), self.server.token.encode()) for said in (given, self._kept())):
            return "this needs the whole link that `medlens view` has printed, with its token"
        return ""

    def _kept(self) -> str:
        """The token, as the browser has kept it."""
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    def _send(self, status: HTTPStatus, page: Page, cookie: str | None = None) -> None:
        self.send_response(status)
        for name, value in GUARDS.items():
            self.send_header(name, value)
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(page.content)))
        self.end_headers()
        self.wfile.write(page.content)

    def version_string(self) -> str:
        return "medlens"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is looked at is the reader's own business."""
