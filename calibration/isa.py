"""What the processor can do with int8: instruction-set flags, read from the operating system."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path

VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Flags (Linux spelling) that mean: four int8 products are summed into int32 in one instruction, without saturation.

``asimddp`` is Arm's dot product, ``i8mm`` its int8 matrix product. Without any of them x86 engines multiply int8 by
``vpmaddubsw``, whose 16-bit sums saturate when weights use the full int8 range.
"""

_REPORTED = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "avx_vnni_int8",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "neon",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)

# sysctl's names of the same things: Apple silicon (hw.optional.*) and Intel Macs (machdep.cpu.*features).
_MACOS_NAMES = {
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.neon": "neon",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.fma": "fma",
}


@functools.cache
def cpu_isa_flags() -> tuple[str, ...]:
    """The flags of this processor that matter to inference, in Linux spelling, in a fixed order.

    Linux reads ``/proc/cpuinfo`` (``flags`` on x86, ``Features`` on Arm), macOS asks ``sysctl``. Windows has no file or
    command that tells; there the tuple is empty, which callers must read as "unknown", not as "none"
    (:func:`has_vnni` then answers ``False``: the overflow-safe choice).
    """
    on_mac = platform.system() == "Darwin"
    found = _macos_flags() if on_mac else parse_cpuinfo(_read(Path("/proc/cpuinfo")))
    return tuple(flag for flag in _REPORTED if flag in found)


def has_vnni(flags: Iterable[str] | None = None) -> bool:
    """Whether int8 products are accumulated in int32 here, so that full-range int8 weights cannot saturate.

    Args:
        flags: flags to judge; ``None`` takes this machine's.
    """
    return not VNNI_FLAGS.isdisjoint(cpu_isa_flags() if flags is None else flags)


def cpu_model() -> str:
    """The processor's name as the operating system gives it, e.g. ``AMD EPYC``; else the architecture."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    if platform.system() == "Darwin":
        return _sysctl("-n", "machdep.cpu.brand_string").strip() or platform.machine()
    return platform.processor() or platform.machine()


def parse_cpuinfo(text: str) -> frozenset[str]:
    """Flags of the first processor in the text of ``/proc/cpuinfo``; empty where it names none."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _macos_flags() -> frozenset[str]:
    found = set()
    for line in _sysctl("hw.optional").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _MACOS_NAMES and value.strip() == "1":
            found.add(_MACOS_NAMES[key.strip()])
    return frozenset(found)


def _sysctl(*arguments: str) -> str:
    try:
        return subprocess.run(["sysctl", *arguments], capture_output=True, text=True, timeout=5).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
