"""Instruction-set flags."""

from __future__ import annotations

import pytest

from fptk.calibration.isa import cpu_isa_flags, cpu_model, has_vnni, parse_cpuinfo


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
