"""``fptk serve``: a web bundle in the browser of this machine."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType


@click.command("serve")
@click.argument("folder", type=PathType)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 takes a free one."
)
def command(folder: Path, port: int) -> None:
    """Serve the page in FOLDER, a bundle of target web, to browsers on this machine.

    No other machine gets an answer. The page may use every core: browsers give threads only to pages that are served
    with certain headers, and this server sends them. Ctrl-C ends it.
    """
    from fptk.core.console import out
    from fptk.workflows.serve import HOST, make_server

    with make_server(folder, port) as server:
        out.print(f"serving {folder} at http://{HOST}:{server.server_port}/ (Ctrl-C ends)", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            out.print("ended")
