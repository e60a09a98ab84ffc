"""What Arm's processors have, and what tables they take."""

from __future__ import annotations

import pytest

from stage2.errors import EncodingError
from stage2.flags import RWX
from stage2.formats import by_name, family_for
from stage2.formats.arm import layout, stage1, stage2
from stage2.formats.arm.processors import identified, vmid_bits
from stage2.processor import Processor, named, parse

ARM = family_for("aarch64")

# ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, read at EL2 of QEMU's models (7.2 and 10.0).
ID_REGISTERS = {
    "max": (0x2100032310201126, 0x0110112010312122, 0x1221011112011011),
    "cortex-a35": (0x101122, 0, 0),
    "cortex-a53": (0x1122, 0, 0),
    "cortex-a55": (0x101122, 0x10212122, 0x1011),
    "cortex-a57": (0x1124, 0, 0),
    "cortex-a72": (0x1124, 0, 0),
    "cortex-a76": (0x101122, 0x10212122, 0x1011),
    "cortex-a710": (0x22200101122, 0x10212122, 0x1221011110101011),
    "neoverse-n1": (0x101125, 0x10212122, 0x1011),
    "neoverse-n2": (0x22200101125, 0x10212122, 0x1221011112101011),
    "neoverse-v1": (0x101125, 0x10212122, 0x0220011102101011),
    "a64fx": (0x1122, 0x11212100, 0x1011),
}


def arm(text: str) -> Processor:
    return parse(text, "aarch64")


def width_of(controls: int) -> int:
    return controls >> layout.OUTPUT_BITS_AT & 0x3F


@pytest.mark.parametrize("name", named("aarch64"))
def test_a_named_processor_is_what_its_id_registers_say(name: str) -> None:
    processor = arm(name)
    assert identified(*ID_REGISTERS[name]) == (processor.features, processor.numbers)


@pytest.mark.parametrize("name", ARM.names)
def test_max_takes_every_format_with_its_default_controls(name: str) -> None:
    fmt = by_name(name)
    assert ARM.controls(fmt, arm("max")) == fmt.default_controls
    assert ARM.output_bits(fmt, arm("max")) == fmt.output_bits
    ARM.require(fmt, arm("max"), fmt.controls_with(*fmt.switches))


@pytest.mark.parametrize("pa", [32, 36, 40, 42, 44, 48, 52])
@pytest.mark.parametrize("name", ["arm-s1-4k-39", "arm-s2-4k-32", "arm-s2-64k-32-lpa"])
def test_the_output_size_is_the_processors(name: str, pa: int) -> None:
    fmt, processor = by_name(name), arm(f"max,pa={pa}")
    expected = min(pa, fmt.output_bits)
    controls = ARM.controls(fmt, processor)
    assert (ARM.output_bits(fmt, processor), width_of(controls)) == (expected, expected)
    assert controls == fmt.default_controls & ~layout.OUTPUT_BITS | expected << layout.OUTPUT_BITS_AT
    # Every address below it is one, and none above.
    leaf = fmt.leaf_entry(0, 0, RWX, controls=controls)
    for address, fits in (((1 << expected) - fmt.page_size, True), (1 << expected, False)):
        if not address >> fmt.output_bits:
            assert (fmt.decode(leaf | fmt.pack_address(address), 0, controls)[1] == address) is fits


@pytest.mark.parametrize(
    ("processor", "name", "problem"),
    [
        ("cortex-a72", "arm-s2-16k-40", r"it has no 16 KiB granules \(granule-16k\)"),
        ("max,-granule-4k", "arm-s1-4k-39", r"no 4 KiB granules \(granule-4k\)"),
        ("cortex-a76", "arm-s2-4k-52-lpa2", r"no 52-bit addresses with 4 and 16 KiB granules \(lpa2\)"),
        ("neoverse-n1", "arm-s1-64k-48-lpa", r"no 52-bit addresses with 64 KiB granules \(lpa\)"),
        ("max,-lva", "arm-s1-64k-52", r"no 52-bit input addresses with 64 KiB granules \(lva\)"),
        ("max,-ttst", "arm-s2-4k-25-1level", r"starts at level 3 of 4 KiB granules \(ttst\)"),
        ("cortex-a53", "arm-s2-4k-48", "48-bit IPAs .* wider than the 40-bit physical addresses of the processor"),
        ("cortex-a53", "arm-s2-4k-40-4level", "4 levels of 4 KiB granules need a processor of 44-bit"),
        ("max,pa=41", "arm-s2-4k-40", "32, 36, 40, 42, 44, 48, 52 bits, and not 41"),
    ],
)
def test_what_a_processor_does_not_have_is_told_in_one_sentence(processor: str, name: str, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem) as caught:
        ARM.controls(by_name(name), arm(processor))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("processor", "name", "controls", "problem"),
    [
        ("cortex-a72", "arm-s2-4k-40", layout.HA, r"access flags that hardware sets \(ha\)"),
        ("max,-hd", "arm-s1-4k-39", layout.HA | layout.HD, r"dirty state that hardware manages \(hd\)"),
        ("neoverse-n1", "arm-s2-4k-40", stage2.FWB, r"HCR_EL2.FWB \(fwb\)"),
        ("cortex-a53", "arm-s1-4k-39", stage1.PAN, r"PSTATE.PAN \(pan\)"),
        ("cortex-a53", "arm-s1-4k-39", stage1.HPD, r"TCR.HPD \(hpds\)"),
        ("cortex-a53", "arm-s2-4k-40", stage2.XNX, r"XN\[0\] \(xnx\)"),
    ],
)
def test_controls_beyond_a_processor_are_refused(processor: str, name: str, controls: int, problem: str) -> None:
    fmt = by_name(name)
    plain = ARM.controls(fmt, arm(processor))
    ARM.require(fmt, arm(processor), plain)
    with pytest.raises(EncodingError, match=f"is not for {processor}.*{problem}"):
        ARM.require(fmt, arm(processor), plain | controls)


def test_an_output_size_beyond_a_processor_is_refused() -> None:
    fmt = by_name("arm-s1-4k-39")
    with pytest.raises(EncodingError, match=r"output addresses of 48 bits is not for cortex-a72, .* have 44"):
        ARM.require(fmt, arm("cortex-a72"), fmt.default_controls)


def test_without_xnx_stage_2_makes_no_difference_between_el0_and_el1() -> None:
    assert not ARM.controls(by_name("arm-s2-4k-40"), arm("cortex-a72")) & stage2.XNX
    assert ARM.controls(by_name("arm-s2-4k-40"), arm("cortex-a76")) & stage2.XNX


def test_the_width_of_a_vmid_is_the_processors() -> None:
    assert [vmid_bits(arm(name)) for name in ("cortex-a72", "cortex-a76", "max,vmid=12")] == [8, 16, 8]
