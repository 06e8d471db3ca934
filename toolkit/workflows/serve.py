"""``fptk serve``: a folder of files for browsers on this machine, with the headers that they give threads for.

WebAssembly threads share memory, and browsers allow that only to pages that are isolated from others
(https://web.dev/articles/coop-coep).
"""

from __future__ import annotations

import errno
import http
import http.server
import urllib.parse
from pathlib import Path
from typing import Any

from fptk.core.errors import InputError
from fptk.core.files import kind_of

HOST = "127.0.0.1"
"""Nobody else on the network gets an answer."""

INDEX = "index.html"

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Sent with every answer. A bundle that was exported again is fetched again."""

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".onnx": "application/octet-stream",
    ".png": "image/png",
    ".wasm": "application/wasm",
}
"""By suffix, whatever the system's own table says: a browser runs no module of another type."""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Answers GET and HEAD for regular files below one folder. Everything else is not there."""

    server_version = "fptk"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    extensions_map = TYPES

    def __init__(self, *arguments: Any, directory: str) -> None:
        self._root = Path(directory).resolve()
        super().__init__(*arguments, directory=directory)

    def send_head(self) -> Any:
        """Refuse other hosts' names (a page elsewhere may have its name point here), then what is no file below."""
        if not self._for_this_host():
            self.send_error(http.HTTPStatus.FORBIDDEN, "this server answers to localhost only")
            return None
        path = self._file()
        if path is None:
            self.send_error(http.HTTPStatus.NOT_FOUND, "there is no such file")
            return None
        return super().send_head()

    def _for_this_host(self) -> bool:
        name = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        return name in (HOST, "localhost")

    def _file(self) -> Path | None:
        """The regular file that is asked for; ``None`` for folders, links that lead out, and what is not there."""
        asked = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if "\0" in asked or "\\" in asked or ".." in asked.split("/"):
            return None
        try:
            path = (self._root / (asked.strip("/") or INDEX)).resolve()
            return path if path.is_relative_to(self._root) and path.is_file() else None
        except (OSError, RuntimeError):  # a name too long, links in a circle
            return None

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the browser shows what it asked for."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that turns away in the middle of an answer is no error."""


def make_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of the files below ``folder``, bound and not yet answering; ``serve_forever()`` starts it.

    Args:
        folder: holds ``index.html``.
        port: 0 takes a free one; ``server_port`` names it.

    Raises:
        InputError: no such folder or page, or the port cannot be had.
    """
    kind = kind_of(folder, "folder")
    if kind != "folder":
        raise InputError(f"{folder} {'is no folder' if kind else 'does not exist'}; give the folder of a web bundle")
    if kind_of(folder / INDEX) != "file":
        raise InputError(
            f"{folder} holds no {INDEX}; give the folder of a web bundle, made by: fptk export --target web"
        )

    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder.resolve()))

    try:
        return _Server((HOST, port), handler)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "another program uses it",
            errno.EACCES: "the system keeps it for its own programs",
        }.get(error.errno or 0)
        if reason is None:
            raise
        raise InputError(f"port {port} cannot be had: {reason}; choose another --port, or 0 for a free one") from error
