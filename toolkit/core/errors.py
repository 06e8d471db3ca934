"""The errors that a user can cause, each with the exit code that the command line promises for it.

A message is one line: what was found, what was expected, what to do next. ``fptk.cli`` prints it without a
traceback; anything that is not an :class:`FptkError` is a bug, keeps its traceback and exits with code 1.
"""

import unicodedata


class FptkError(Exception):
    """Base of every error that is the user's to mend.

    Attributes:
        exit_code: process exit code that the command line ends with.
    """

    exit_code = 2


class InputError(FptkError):
    """A file, folder, option or recipe is not what the command needs (exit code 2)."""

    exit_code = 2


class TargetUnavailableError(FptkError):
    """This host can't build or run the target; what was made before that point is kept and named (exit code 3)."""

    exit_code = 3


class GateRefusedError(FptkError):
    """The engine was built but lost more accuracy than allowed (exit code 4)."""

    exit_code = 4


class FptkWarning(UserWarning):
    """What a user should look at although the work goes on. ``fptk.cli`` prints each on a line of its own."""


def missing_package(package: str, extra: str) -> InputError:
    """The error for a package that an extra would have installed."""
    return InputError(f"the package '{package}' is not installed; run: pip install 'fptk[{extra}]'")


def one_line(text: str) -> str:
    """``text`` with line breaks, control characters and text direction marks made visible, so that none acts."""
    unsafe = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in unsafe else each for each in text
    )
