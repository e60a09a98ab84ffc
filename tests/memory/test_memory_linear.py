"""The linear map of the hypervisor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import ADDRESS_LIMIT, Hpa, Hva, Range
from stage2.errors import OutOfRangeError
from stage2.memory.linear import LinearMap

HIGH = LinearMap(0xFFFF_0000_0000_0000, Range(0x4000_0000, 0x8000_0000))


def test_the_seeds_offset_is_added_and_taken_off() -> None:
    assert HIGH.phys_to_virt(Hpa(0x4020_0000)) == 0xFFFF_0000_4020_0000
    assert HIGH.virt_to_phys(Hva(0xFFFF_0000_4020_0000)) == 0x4020_0000
    assert HIGH.virtual == Range(0xFFFF_0000_4000_0000, 0xFFFF_0000_8000_0000)


@pytest.mark.parametrize("hpa", [0, 0x3FFF_FFFF, 0x8000_0000, ADDRESS_LIMIT])
def test_an_address_outside_the_map_is_refused(hpa: int) -> None:
    with pytest.raises(OutOfRangeError, match="not all in the linear map"):
        HIGH.phys_to_virt(Hpa(hpa))
    with pytest.raises(OutOfRangeError, match=r"HVA 0x[0-9a-f]+ are not all"):
        HIGH.virt_to_phys(Hva(hpa + HIGH.offset))


def test_the_whole_object_must_be_inside() -> None:
    assert HIGH.phys_to_virt(Hpa(0x7FFF_FFF8), 8) == 0xFFFF_0000_7FFF_FFF8
    with pytest.raises(OutOfRangeError):
        HIGH.phys_to_virt(Hpa(0x7FFF_FFF9), 8)
    with pytest.raises(OutOfRangeError):
        HIGH.phys_to_virt(Hpa(0x5000_0000), 0)


@pytest.mark.parametrize("offset", [-0x4000_0001, ADDRESS_LIMIT - 0x8000_0000 + 1])
def test_an_offset_that_leaves_64_bits_is_refused(offset: int) -> None:
    with pytest.raises(OutOfRangeError, match="linear map of"):
        LinearMap(offset, Range(0x4000_0000, 0x8000_0000))


@given(st.integers(-(1 << 30), 1 << 62), st.integers(1 << 30, (1 << 31) - 1))
def test_there_and_back_is_the_same_address(offset: int, hpa: int) -> None:
    linear = LinearMap(offset, Range(1 << 30, 1 << 31))
    assert linear.virt_to_phys(linear.phys_to_virt(Hpa(hpa))) == hpa
