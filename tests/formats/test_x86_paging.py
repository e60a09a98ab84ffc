"""Control registers and the regime they select: each bit on its own place, and back again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError
from stage2.flags import Access
from stage2.formats import by_name
from stage2.formats.outcome import FaultKind
from stage2.formats.x86 import longmode, paging
from stage2.formats.x86.syndromes import encode_guest_exception

WORDS = st.integers(0, (1 << 64) - 1)
PG, LMA, PKE, LA57, WP, NXE, SMEP, SMAP = 1 << 31, 1 << 10, 1 << 22, 1 << 12, 1 << 16, 1 << 11, 1 << 20, 1 << 21
WIDTH = 40 << longmode.MAXPHYADDR_SHIFT


@given(cr0=WORDS, cr4=WORDS, efer=WORDS)
def test_the_paging_mode_is_what_the_manual_says(cr0: int, cr4: int, efer: int) -> None:
    """SDM Vol. 3A, 5.1.1: without CR0.PG none; with it and IA32_EFER.LMA 4-level paging, or 5-level by CR4.LA57."""
    long = efer & LMA and not cr4 & PKE
    assert paging.mode_of(cr0, cr4, efer) == (paging.FLAT if not cr0 & PG else paging.LONG if long else paging.OTHER)
    assert paging.levels_of(cr4) == (5 if cr4 & LA57 else 4)


@given(cr0=WORDS, cr4=WORDS, efer=WORDS, exempt=st.booleans(), amd=st.sampled_from([0, longmode.AMD]))
def test_the_controls_are_the_registers_bits(cr0: int, cr4: int, efer: int, exempt: bool, amd: int) -> None:
    """SDM Vol. 3A, 2.5 (CR0.WP 16, CR4.SMEP 20, CR4.SMAP 21) and 2.2.1 (IA32_EFER.NXE 11); 5.6: AC spares SMAP."""
    expected = WIDTH | amd | (longmode.WP if cr0 & WP else 0) | (longmode.NXE if efer & NXE else 0)
    expected |= (longmode.SMEP if cr4 & SMEP else 0) | (longmode.SMAP if cr4 & SMAP and not exempt else 0)
    assert paging.controls_of(cr0, cr4, efer, int(exempt), WIDTH | amd) == expected


@given(on=st.sets(st.sampled_from(["smep", "smap", "no-wp", "no-nx", "amd"])))
def test_registers_for_controls_select_them_again(on: set[str]) -> None:
    controls = by_name("x86-4level").controls_with(*on)
    processor = controls & (longmode.AMD | 0xFF << longmode.MAXPHYADDR_SHIFT)
    assert paging.controls_of(*paging.registers_for(controls), 0, processor) == controls


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("controls", [0, longmode.NXE, longmode.SMEP])
def test_the_exception_of_a_guests_tables_tells_fetches_with_nxe_or_smep(access: Access, controls: int) -> None:
    """SDM Vol. 3A, 5.7, I/D: set for a fetch if CR4.SMEP or IA32_EFER.NXE (with PAE) is set."""
    told = {Access.READ: 0, Access.WRITE: 2, Access.FETCH: 0x10 if controls else 0}[access]
    for kind, code in (
        (FaultKind.TRANSLATION, 0),
        (FaultKind.PERMISSION, 1),
        (FaultKind.MISCONFIGURATION, 9),
        (FaultKind.TABLE_OUTSIDE_MEMORY, 9),
    ):
        for user in (False, True):
            assert encode_guest_exception(kind, access, user=user, controls=controls) == (14, code | told | 4 * user)


def test_an_address_that_is_not_canonical_is_a_general_protection_fault() -> None:
    """SDM Vol. 1, 3.3.7.1."""
    assert encode_guest_exception(FaultKind.ADDRESS_SIZE, Access.READ, user=True, controls=0) == (13, 0)
    with pytest.raises(EncodingError, match="no page fault reports access flag"):
        encode_guest_exception(FaultKind.ACCESS_FLAG, Access.READ, user=True, controls=0)
