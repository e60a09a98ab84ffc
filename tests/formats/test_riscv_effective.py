"""PBMT of both stages and the physical memory attributes (Privileged, "Svpbmt")."""

from __future__ import annotations

from itertools import product

import pytest

from stage2.errors import EncodingError
from stage2.flags import MemoryType
from stage2.formats.effective import TypeSources
from stage2.formats.riscv.effective import combine, effective_type

PMA, NC, IO = 0, 1, 2


@pytest.mark.parametrize(("vs", "g"), list(product((PMA, NC, IO), repeat=2)))
@pytest.mark.parametrize("pma", [MemoryType.WRITE_BACK, MemoryType.DEVICE])
def test_vs_overrides_g_overrides_the_pmas(pma: MemoryType, vs: int, g: int) -> None:
    first = next((pbmt for pbmt in (vs, g) if pbmt != PMA), PMA)
    expected = {PMA: pma, NC: MemoryType.UNCACHED, IO: MemoryType.DEVICE}[first].value
    found = combine(pma, vs, g)
    assert found.name == expected
    assert "Svpbmt" in found.manual


def test_the_text_tells_which_stage_decides() -> None:
    assert "VS-stage" in combine(MemoryType.WRITE_BACK, NC, PMA).text
    assert "overrides the G-stage's IO" in combine(MemoryType.WRITE_BACK, NC, IO).text
    assert "G-stage" in combine(MemoryType.WRITE_BACK, PMA, IO).text
    assert "neither stage" in combine(MemoryType.WRITE_BACK, PMA, PMA).text


@pytest.mark.parametrize(
    ("pma", "pbmt", "both"),
    [
        (MemoryType.WRITE_BACK, IO, True),
        (MemoryType.DEVICE, NC, True),
        (MemoryType.WRITE_BACK, NC, False),
        (MemoryType.DEVICE, IO, False),
    ],
)
def test_a_type_that_contradicts_the_memory_orders_as_both(pma: MemoryType, pbmt: int, both: bool) -> None:
    assert ("both I/O and main memory" in combine(pma, PMA, pbmt).text) == both


@pytest.mark.parametrize(
    ("vs", "g", "stage"), [(3, 0, "VS-stage"), (0, 3, "G-stage"), (-1, 0, "VS-stage"), (0, 4, "G-stage")]
)
def test_reserved_pbmt_is_refused(vs: int, g: int, stage: str) -> None:
    with pytest.raises(EncodingError, match=f"^{stage} PBMT"):
        combine(MemoryType.WRITE_BACK, vs, g)


@pytest.mark.parametrize("pma", list(MemoryType))
def test_known_attributes_of_memory_decide_where_both_stages_are_bare(pma: MemoryType) -> None:
    """PBMT 0 is "None": the PMAs stay as they are, and a Bare stage has no PBMT ("Svpbmt")."""
    found = effective_type(None, None, TypeSources(memory=pma))
    assert found == combine(pma, PMA, PMA)
    assert "is taken to be" not in found.text


def test_attributes_that_are_not_known_are_taken_to_be_main_memorys_and_said_to_be() -> None:
    found = effective_type(None, None, TypeSources())
    assert found.name == MemoryType.WRITE_BACK.value
    assert found.text.endswith(f"The memory itself is taken to be {MemoryType.WRITE_BACK.value}.")
