"""Instruction-set flags."""

from __future__ import annotations

import pytest

from fptk.core.cpu import (
    FAMILIES,
    cpu_family,
    cpu_isa_flags,
    cpu_model,
    has_bf16,
    has_vnni,
    host_instruction_sets,
    parse_cpuinfo,
    promised_families,
)


@pytest.mark.parametrize(
    ("text", "vnni"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu sse4_2 avx2 avx512f avx512_vnni\n", True),
        ("flags : fpu avx2 avx_vnni\n", True),
        ("flags : fpu avx2 amx_tile amx_int8\n", True),
        ("flags : fpu sse4_2 avx2 fma\n", False),
        ("Features\t: fp asimd asimddp\n", True),
        ("Features\t: fp asimd\n", False),
        ("", False),
    ],
)
def test_vnni_is_read_from_cpuinfo(text: str, vnni: bool) -> None:
    assert has_vnni(parse_cpuinfo(text)) is vnni


def test_this_machine_answers_without_raising() -> None:
    assert isinstance(cpu_isa_flags(), tuple)
    assert cpu_model()
    assert has_vnni() is has_vnni(cpu_isa_flags())


HASWELL = "flags : avx2 fma"
ZEN4 = "flags : avx2 fma avx512f avx512bw avx512vl avx512_vnni avx512_bf16"
SAPPHIRE_RAPIDS = (
    "flags : avx2 avx_vnni avx512f avx512bw avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"
)


@pytest.mark.parametrize(
    ("text", "family", "bf16", "strongest"),
    [
        (HASWELL, "avx2", False, "AVX2"),
        (ZEN4, "vnni", True, "AVX512_CORE_BF16"),
        (SAPPHIRE_RAPIDS, "amx", True, "AVX512_CORE_AMX"),
        ("Features : asimd asimddp bf16", "vnni", True, None),
        ("", "avx2", False, None),
    ],
)
def test_a_processor_has_a_family_and_instruction_sets(
    text: str, family: str, bf16: bool, strongest: str | None
) -> None:
    flags = parse_cpuinfo(text)
    names = [each.name for each in host_instruction_sets(flags)]
    assert cpu_family(flags) == family
    assert has_bf16(flags) is bf16
    assert (names[-1] if names else None) == strongest


def test_bf16_is_gone_where_the_instruction_sets_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fptk.core.cpu.cpu_isa_flags", lambda: tuple(parse_cpuinfo(ZEN4)))
    assert has_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni")
    assert not has_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX")
    assert has_bf16()


def test_any_promises_every_family() -> None:
    assert promised_families("any") == FAMILIES
    assert promised_families("vnni") == ("vnni",)
