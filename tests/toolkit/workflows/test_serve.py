"""``fptk serve``: files below one folder, for browsers on this machine alone, with the headers that threads need."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fptk.workflows.serve import HOST, make_server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    (site / "page").mkdir(parents=True)
    (site / "index.html").write_text("<!doctype html>the page")
    (site / "page" / "app.js").write_text("1")
    (site / "page" / "ort.mjs").write_text("2")
    (site / "page" / "ort.wasm").write_bytes(b"\0asm")
    (site / "a file%.json").write_text("{}")
    (site / "inside.json").symlink_to(site / "a file%.json")
    (site / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "secret.txt").write_text("secret")
    return site


@pytest.fixture
def ask(folder: Path) -> Iterator[Callable[..., tuple[int, dict[str, str], bytes]]]:
    """Asks the running server for a path as it is, without the cleaning that clients do."""
    with make_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def request(path: str, host: str | None = None, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
            connection.request(method, path, headers={"Host": host or f"localhost:{server.server_port}"})
            answer = connection.getresponse()
            found = answer.status, dict(answer.getheaders()), answer.read()
            connection.close()
            return found

        yield request
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/", "text/html; charset=utf-8", b"<!doctype html>the page"),
        ("/index.html?x=1#y", "text/html; charset=utf-8", b"<!doctype html>the page"),
        ("/page/app.js", "text/javascript; charset=utf-8", b"1"),
        ("/page/ort.mjs", "text/javascript; charset=utf-8", b"2"),
        ("/page/ort.wasm", "application/wasm", b"\0asm"),
        ("/a%20file%25.json", "application/json", b"{}"),
        ("/inside.json", "application/json", b"{}"),
    ],
)
def test_files_come_with_their_type_and_the_headers_for_threads(
    ask: Callable[..., Any], path: str, kind: str, content: bytes
) -> None:
    status, headers, body = ask(path)
    assert (status, headers["Content-type"], body) == (200, kind, content)
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(path, method="HEAD")[::2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/page/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/page/..%2f..%2fsecret.txt",
        "/page\\..\\..\\secret.txt",
        "//secret.txt",
        "/outside.txt",
        "/page",
        "/page/",
        "/none.txt",
        "/index.html%00",
        "/" + "a" * 3000,
    ],
)
def test_nothing_outside_of_the_folder_and_no_listing(ask: Callable[..., Any], path: str) -> None:
    status, _, body = ask(path)
    assert status == 404
    assert b"secret" not in body
    assert b"app.js" not in body


def test_pages_elsewhere_cannot_reach_it_by_a_name_of_their_own(ask: Callable[..., Any]) -> None:
    assert ask("/", host="evil.example:8000")[0] == 403
    assert ask("/", host=HOST)[0] == 200
    assert ask("/", method="POST")[0] == 501


def test_mistakes_are_one_line(fptk: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    with make_server(folder, 0) as other:
        for arguments, words in (
            ((tmp_path / "none",), "does not exist; give the folder of a web bundle"),
            ((folder / "index.html",), "is no folder"),
            ((folder / "page",), "holds no index.html; give the folder of a web bundle"),
            ((folder, "--port", other.server_port), "another program uses it; choose another --port"),
        ):
            done = fptk("serve", *arguments)
            assert done.code == 2
            assert words in done.err
            assert len(done.err.splitlines()) == 1
    assert fptk("serve", folder, "--port", "70000").code == 2


def test_the_command_says_where_it_serves_and_ends_well(
    fptk: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(server: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fptk.workflows.serve._Server.serve_forever", interrupted)
    done = fptk("serve", folder, "--port", "0")
    assert done.code == 0
    assert f"serving {folder} at http://{HOST}:" in done.out
