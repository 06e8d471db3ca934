"""The ``fptk`` command: one thin file per subcommand, imported only when it is called or listed.

A command file imports click and the standard library at its top, and everything else inside its function: this keeps
``fptk --help`` well under half a second and lets a device without torch use every command that needs none.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

import click

from fptk.core.errors import FptkError, FptkWarning, InputError, one_line
from fptk.core.version import __version__

COMMANDS = (
    "train",
    "export",
    "check",
    "verify",
    "serve",
    "bench",
    "profile",
    "eval",
    "predict",
    "run",
    "demo",
    "report",
    "ablate",
    "models",
    "doctor",
    "data",
)
"""Subcommands in the order of ``fptk --help``; command NAME is the object ``command`` of module ``fptk.cli.NAME``."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C, as shells have it."""
PIPE_CLOSED = 141
"""Exit code where the reader of the output has gone, as of a program that SIGPIPE ends."""


class LazyGroup(click.Group):
    """A group whose commands are imported by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"fptk.cli.{cmd_name}").command
        return command


def _print_versions(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """Callback of ``--version``: fptk's own, and those of the packages that decide what an engine computes."""
    if not asked or context.resilient_parsing:
        return
    from fptk.core.host import tool_versions

    click.echo(f"fptk, version {__version__}")
    for name, version in tool_versions().items():
        if name != "fptk":
            click.echo(f"{name} {version}")
    context.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Print the versions of fptk and of the engines that are installed.",
)
def cli() -> None:
    """Train a face-parsing network, quantise it, build its engines, and prove that they kept its accuracy.

    Exit codes: 0 done; 2 bad input; 3 the target cannot be built or run on this host; 4 the accuracy gate refused;
    130 stopped by Ctrl-C; 1 a bug in fptk.
    """
    try:
        os.getcwd()  # noqa: PTH109 - every path that is given starts from here
    except FileNotFoundError:
        raise InputError("the working folder has been deleted; change into another one") from None


def main() -> None:
    """Entry point of the ``fptk`` script: the user's mistakes end in one line and an exit code, not in a traceback."""
    _mend_streams()
    try:
        with _shown_warnings(), _CtrlC() as ctrl_c:
            code = _run(ctrl_c)
    except KeyboardInterrupt:  # a second one, while the line for the first was being printed
        code = INTERRUPTED
    if code:
        sys.exit(code)


def _run(ctrl_c: _CtrlC) -> int:
    """Do what the command line asks for, and say in one line why it cannot be done; the exit code."""
    try:
        message, code = "", _call()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        ctrl_c.end()
        message, code = _outcome(error, ctrl_c)
    full = _flush()
    if full and not code:
        message, code = full
    if message:
        click.echo(f"fptk: {one_line(message)}", err=True)
    return code


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Print every warning of fptk's own as one line on stderr; those of other packages stay Python's."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, FptkWarning):
            others(message, category, *where, **more)
            return
        from fptk.core.console import log

        log.print(f"warning: {message}", soft_wrap=True)

    warnings.simplefilter("always", FptkWarning)
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = others


def _call() -> int:
    """Do what the command line asks for; click's own way does not tell a closed pipe or Ctrl-C from a bug."""
    if os.environ.get("_FPTK_COMPLETE"):
        cli(prog_name="fptk")  # answers the shell and exits
    try:
        with cli.make_context("fptk", sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    return 0


def _show(error: click.ClickException) -> None:
    """Print what click has to say about the command line; it repeats what was typed."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError) or context is None:
        error.show()
        return
    click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n", err=True)
    click.echo(f"Error: {one_line(error.format_message())}", err=True)


def _outcome(error: BaseException, ctrl_c: _CtrlC) -> tuple[str, int]:
    """The line and the exit code that an error ends with; a bug is raised again."""
    if isinstance(error, FptkError) and (not ctrl_c.came or error.exit_code > 128):
        return str(error), error.exit_code
    # After a Ctrl-C any error may be its consequence: a package whose import it ended says that it is not installed.
    if ctrl_c.came or isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted", INTERRUPTED
    # Rich turns a broken pipe into SystemExit(1).
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return "", PIPE_CLOSED
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"cannot write {error.filename or 'the output'}: {error.strerror}; free space and try again", 2
    if isinstance(error, MemoryError):
        return "this machine has not enough memory for that; choose smaller images, or fewer at a time", 2
    raise error


class _CtrlC:
    """Context that knows whether Ctrl-C came, also where other code has made something else of it."""

    def __init__(self) -> None:
        self.came = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        # Python allows handlers in the main thread only, and a process started with nohup or & may ignore SIGINT.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            if self._previous is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._previous is signal.default_int_handler and not self.came:
            signal.signal(signal.SIGINT, self._previous)

    def end(self) -> None:
        """From here on, a second Ctrl-C ends the process at once, and without a traceback."""
        if self._previous is signal.default_int_handler and self.came:
            signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
            # An exec() that Ctrl-C ended, of a class being made, say, has Python die of SIGINT at its end, whatever the
            # exit code; the next exec() forgets that (run_eval_code_obj in pythonrun.c).
            exec("")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def _mend_streams() -> None:
    """Make every standard stream one that can be written to: nothing printed may end a command."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by the caller; the next file to be opened would get its number, and the output
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _flush() -> tuple[str, int] | None:
    """Write out what is left for standard output; line and exit code where that fails."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left would be tried again, and complained about, when the interpreter ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            return "", PIPE_CLOSED
        return f"cannot write the output: {error.strerror}; free space and try again", 2
    return None
