"""What a RISC-V processor makes of the tables."""

from __future__ import annotations

import pytest

from stage2.errors import EncodingError
from stage2.formats import by_name, family_of, names
from stage2.formats.riscv.entry import HARDWARE_AD
from stage2.formats.riscv.formats import BARE_STAGE_2
from stage2.processor import named, parse

FORMATS = [name for name in names() if by_name(name).family == "riscv"]


def controls(fmt: str, cpu: str) -> int:
    found = by_name(fmt)
    return family_of(found).controls(found, parse(cpu, "riscv64"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_processor_with_everything_has_the_formats_own_controls(name: str) -> None:
    assert controls(name, "max") == by_name(name).default_controls


@pytest.mark.parametrize("name", FORMATS)
def test_hardware_that_always_sets_a_and_d_is_told_so(name: str) -> None:
    """Privileged, "Addressing and Memory Protection": without Svade and Svadu an implementation may do either."""
    assert controls(name, "qemu-7-rv64") == by_name(name).default_controls | HARDWARE_AD
    assert controls(name, "qemu-10-rv64") == by_name(name).default_controls


@pytest.mark.parametrize(
    ("cpu", "fmt", "switches", "lacks"),
    [
        ("sifive-u54", "sv39x4", (), "sifive-u54 has no hypervisor extension, so no sv39x4"),
        ("sifive-u54", "sv48", (), r"sifive-u54 has no sv48 \(satp.MODE 9\); the widest it has is sv39$"),
        ("sifive-u54", "sv39", ("hlvx",), "no hypervisor extension, so no HLVX"),
        ("kunminghu", "sv57x4", (), r"no sv57x4 \(hgatp.MODE 10\); the widest it has is sv48x4$"),
        ("kunminghu", "sv39x4", ("ad",), "no Svadu: hardware does not set A and D"),
        ("qemu-10-rv64", "sv39x4", ("napot",), "no Svnapot, so bit 63"),
        ("qemu-10-rv64", "sv39x4", ("pbmt",), "no Svpbmt, so bits 62:61"),
        ("qemu-7-rv64", "sv39x4", (), "no Svade: hardware always sets A and D"),
        ("max,-sv48,-sv57", "sv57x4", (), "the widest it has is sv39x4$"),
    ],
)
def test_what_a_processor_lacks_is_told_in_one_sentence(
    cpu: str, fmt: str, switches: tuple[str, ...], lacks: str
) -> None:
    found = by_name(fmt)
    with pytest.raises(EncodingError, match=lacks):
        family_of(found).require(found, parse(cpu, "riscv64"), found.controls_with(*switches))


@pytest.mark.parametrize(
    ("cpu", "fmt", "switches"),
    [
        ("max", "sv57x4", ("ad", "mxr", "pbmt", "napot", "hlvx")),
        ("kunminghu", "sv48x4", ("mxr", "pbmt", "napot")),
        ("sifive-u54", "sv39", ("mxr", "sum")),
        ("qemu-7-rv64", "sv57x4", ("ad",)),
        ("qemu-10-rv64,svpbmt", "sv57x4", ("ad", "pbmt")),
    ],
)
def test_what_a_processor_has_is_taken(cpu: str, fmt: str, switches: tuple[str, ...]) -> None:
    found = by_name(fmt)
    family_of(found).require(found, parse(cpu, "riscv64"), found.controls_with(*switches))


@pytest.mark.parametrize("width", [32, 38, 40, 48, 55, 56])
@pytest.mark.parametrize("name", FORMATS)
def test_addresses_are_as_wide_as_the_processors(name: str, width: int) -> None:
    found = by_name(name)
    assert family_of(found).output_bits(found, parse(f"max,pa={width}", "riscv64")) == width


@pytest.mark.parametrize("cpu", named("riscv64"))
def test_bare_is_on_every_processor(cpu: str) -> None:
    assert family_of(BARE_STAGE_2).controls(BARE_STAGE_2, named("riscv64")[cpu]) == 0
