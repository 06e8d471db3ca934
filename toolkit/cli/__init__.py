"""The ``fptk`` command: one thin file per subcommand, imported only when it is called or listed.

A command file imports click and the standard library at its top, and everything else inside its function: this keeps
``fptk --help`` well under half a second and lets a device without torch use every command that needs none.
"""

from __future__ import annotations

import importlib
import sys

import click

from fptk import __version__
from fptk.errors import FptkError

COMMANDS = ("train", "export", "bench", "eval", "predict", "run", "demo", "ablate", "doctor", "data")
"""Subcommands in the order of ``fptk --help``; command NAME is the object ``command`` of module ``fptk.cli.NAME``."""


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fptk.cli.{cmd_name}").command
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fptk")
def cli() -> None:
    """Train a face-parsing network, quantise it, build its engines, and prove that they kept its accuracy.

    Exit codes: 0 done; 2 bad input; 3 the target cannot be built or run on this host; 4 the accuracy gate refused;
    1 a bug in fptk.
    """


def main() -> None:
    """Entry point of the ``fptk`` script: the user's mistakes end in one line and an exit code, not in a traceback."""
    try:
        cli()
    except FptkError as error:
        click.echo(f"fptk: {error}", err=True)
        sys.exit(error.exit_code)
