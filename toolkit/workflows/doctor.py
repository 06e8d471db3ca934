"""What this machine can build and run, and what would mend what it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from fptk.core.host import describe_host, tool_versions
from fptk.export.targets.base import Probe
from fptk.export.targets.registry import get_target, list_targets

PURPOSES = {"train": "training and loading of networks", "export": "export and reports"}
"""What the extras of the package are for, beside those of single targets, whose probes speak for them."""

_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;\s*extra\s*==\s*['"]([\w-]+)['"]""")
"""A line of the package's metadata: name of a package, and the extra that asks for it."""


@dataclass(frozen=True)
class Problem:
    """Something that does not work here."""

    what: str
    """What is concerned, e.g. ``target trt``."""
    problem: str
    """What is wrong, in one line."""
    remedy: str
    """The command that mends it, or the step where no command does."""


@dataclass(frozen=True)
class Examination:
    """What was found."""

    host: dict[str, Any]
    tools: dict[str, str]
    """Version of every package that computes."""
    targets: dict[str, Probe]
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def examine() -> Examination:
    """Look at the host, its packages and every target; nothing is raised for what is missing."""
    targets = {name: get_target(name).probe() for name in list_targets()}
    problems = [
        Problem(f"target {name}", probe.reason, probe.remedy) for name, probe in targets.items() if probe.reason
    ]
    return Examination(describe_host(), tool_versions(), targets, (*_missing_packages(), *problems))


def _missing_packages() -> Iterator[Problem]:
    """One problem for each extra of which a package is not installed."""
    try:
        requirements = metadata.requires("fptk") or []
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return
    for extra, purpose in PURPOSES.items():
        found = [match for each in requirements if (match := _REQUIREMENT.match(each)) and match[2] == extra]
        missing = [match[1] for match in found if not tool_versions(match[1])]
        if missing:
            names = ", ".join(missing)
            yield Problem(purpose, f"not installed: {names}", f"pip install 'fptk[{extra}]'")
