"""What a processor can do with int8 and bf16: instruction-set flags, families, and what OpenVINO can be told to use."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Flags (Linux spelling) that mean: four int8 products are summed into int32 in one instruction, without saturation.

``asimddp`` is Arm's dot product, ``i8mm`` its int8 matrix product. Without any of them x86 engines multiply int8 by
``vpmaddubsw``, whose 16-bit sums saturate when weights use the full int8 range.
"""

Family = Literal["avx2", "vnni", "amx"]
"""Processors that compute int8 alike: without int32 accumulation, with it (VNNI, Arm's dot product), with AMX tiles."""

FAMILIES: tuple[Family, ...] = get_args(Family)

Cpu = Literal["any", "avx2", "vnni", "amx"]
"""What ``--cpu`` takes: the processors that an INT8 engine is promised to be right on."""


def promised_families(cpu: Cpu) -> tuple[Family, ...]:
    """The families behind a value of ``--cpu``."""
    return FAMILIES if cpu == "any" else (cpu,)


@dataclass(frozen=True)
class InstructionSet:
    """A value of :data:`ISA_VARIABLE`, which OpenVINO's CPU plugin obeys.

    Source: oneDNN developer guide, *CPU Dispatcher Control*.
    """

    name: str
    needs: frozenset[str]
    """Flags (Linux spelling) that a processor must have."""
    family: Family
    bf16: bool
    """Whether it has bf16 arithmetic."""


ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that rules out the instruction sets beyond its value; read once, when OpenVINO is loaded."""

INSTRUCTION_SETS = (
    InstructionSet("AVX2", frozenset({"avx2"}), "avx2", bf16=False),
    InstructionSet("AVX2_VNNI", frozenset({"avx2", "avx_vnni"}), "vnni", bf16=False),
    InstructionSet("AVX512_CORE", frozenset({"avx512f", "avx512bw", "avx512vl"}), "avx2", bf16=False),
    InstructionSet("AVX512_CORE_VNNI", frozenset({"avx512f", "avx512_vnni"}), "vnni", bf16=False),
    InstructionSet("AVX512_CORE_BF16", frozenset({"avx512f", "avx512_vnni", "avx512_bf16"}), "vnni", bf16=True),
    InstructionSet("AVX512_CORE_FP16", frozenset({"avx512_vnni", "avx512_bf16", "avx512_fp16"}), "vnni", bf16=True),
    InstructionSet("AVX512_CORE_AMX", frozenset({"avx512_fp16", "amx_int8", "amx_bf16"}), "amx", bf16=True),
)
"""Weakest first."""


def host_instruction_sets(flags: Iterable[str] | None = None) -> tuple[InstructionSet, ...]:
    """Those of :data:`INSTRUCTION_SETS` that a processor with these flags (``None``: this one) has, weakest first."""
    have = frozenset(cpu_isa_flags() if flags is None else flags)
    return tuple(each for each in INSTRUCTION_SETS if each.needs <= have)


def has_bf16(flags: Iterable[str] | None = None) -> bool:
    """Whether a processor with these flags (``None``: this one) has bf16 arithmetic that OpenVINO may use.

    OpenVINO does not tell: it lists bf16 on every processor with AVX-512 and then computes in float32. For this
    processor, an instruction set that ``ONEDNN_MAX_CPU_ISA`` rules out does not count.
    """
    have = frozenset(cpu_isa_flags() if flags is None else flags)
    sets = host_instruction_sets(have)
    limit = os.environ.get(ISA_VARIABLE, "").upper() if flags is None else ""
    names = [each.name for each in INSTRUCTION_SETS]
    if limit in names:
        sets = tuple(each for each in sets if names.index(each.name) <= names.index(limit))
    return any(each.bf16 for each in sets) or "bf16" in have


def cpu_family(flags: Iterable[str] | None = None) -> Family:
    """The family of a processor with these flags (``None``: this one)."""
    have = frozenset(cpu_isa_flags() if flags is None else flags)
    if "amx_int8" in have:
        return "amx"
    return "vnni" if has_vnni(have) else "avx2"


def family_under(variable: str | None) -> Family:
    """The family that an engine meets here, heeding the environment variable that limits its instruction sets.

    Args:
        variable: its name, e.g. :data:`ISA_VARIABLE`; ``None`` for an engine that cannot be told.
    """
    limit = os.environ.get(variable, "").upper() if variable else ""
    names = [each.name for each in INSTRUCTION_SETS]
    allowed = names[: names.index(limit) + 1] if limit in names else []
    offered = [each for each in host_instruction_sets() if each.name in allowed]
    return offered[-1].family if offered else cpu_family()


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
