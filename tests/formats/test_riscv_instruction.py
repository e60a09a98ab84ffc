"""Loads and stores of RISC-V, told from their encodings and from htinst."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stage2.flags import Access
from stage2.formats.riscv.instruction import LoadStore, attempted, load_store
from waiting import HANG_S

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from assembler import PREFIX, require_assembler

R, W = Access.READ, Access.WRITE
LINES: dict[str, tuple[LoadStore | None, Access]] = {
    "lb a0, 5(a1)": (LoadStore(1, 10, False, True, 4), R),
    "lbu t6, -1(s0)": (LoadStore(1, 31, False, False, 4), R),
    "lh a0, 2(a1)": (LoadStore(2, 10, False, True, 4), R),
    "lhu a0, 2(a1)": (LoadStore(2, 10, False, False, 4), R),
    "lw a0, 0x404(a1)": (LoadStore(4, 10, False, True, 4), R),
    "lwu a0, 4(a1)": (LoadStore(4, 10, False, False, 4), R),
    "ld zero, 8(a1)": (LoadStore(8, 0, False, True, 4), R),
    "sb a0, 1(a1)": (LoadStore(1, 10, True, False, 4), W),
    "sh t6, 2(a1)": (LoadStore(2, 31, True, False, 4), W),
    "sw zero, -4(a1)": (LoadStore(4, 0, True, False, 4), W),
    "sd s11, -8(a1)": (LoadStore(8, 27, True, False, 4), W),
    "c.lw a5, 4(s1)": (LoadStore(4, 15, False, True, 2), R),
    "c.ld s0, 8(a0)": (LoadStore(8, 8, False, True, 2), R),
    "c.sw a4, 4(a5)": (LoadStore(4, 14, True, False, 2), W),
    "c.sd a0, 8(a5)": (LoadStore(8, 10, True, False, 2), W),
    "c.lwsp t6, 4(sp)": (LoadStore(4, 31, False, True, 2), R),
    "c.ldsp ra, 8(sp)": (LoadStore(8, 1, False, True, 2), R),
    "c.swsp zero, 4(sp)": (LoadStore(4, 0, True, False, 2), W),
    "c.sdsp t6, 8(sp)": (LoadStore(8, 31, True, False, 2), W),
    ".hword 0x8188": (LoadStore(1, 10, False, False, 2), R),  # c.lbu a0, 0(a1)
    ".hword 0x8588": (LoadStore(2, 10, False, False, 2), R),  # c.lhu a0, 0(a1)
    ".hword 0x85c8": (LoadStore(2, 10, False, True, 2), R),  # c.lh a0, 0(a1)
    ".hword 0x8988": (LoadStore(1, 10, True, False, 2), W),  # c.sb a0, 0(a1)
    ".hword 0x8d88": (LoadStore(2, 10, True, False, 2), W),  # c.sh a0, 0(a1)
    "fld fa0, 0(a0)": (None, R),
    "fsw fa0, 0(a0)": (None, W),
    "c.fsd fa0, 8(a0)": (None, W),
    "c.fldsp fa0, 8(sp)": (None, R),
    "lr.d a0, (a1)": (None, R),
    "sc.d a0, a1, (a2)": (None, W),
    "amoadd.w a0, a1, (a2)": (None, W),
    "c.addi a0, 1": (None, R),
}


@pytest.fixture(scope="module")
def words() -> dict[str, int]:
    """The encodings that Debian's assembler gives."""
    require_assembler()
    with TemporaryDirectory() as folder:
        source = Path(folder) / "all.s"
        # A label each: instructions have two lengths.
        source.write_text("\n".join(f"{line}\n.align 3" for line in LINES) + "\n")
        made, raw = source.with_suffix(".o"), source.with_suffix(".bin")
        command = [f"{PREFIX}as", "-march=rv64gc", "-mno-relax", "-o", str(made), str(source)]
        subprocess.run(command, check=True, timeout=HANG_S)
        subprocess.run([f"{PREFIX}objcopy", "-O", "binary", str(made), str(raw)], check=True, timeout=HANG_S)
        data = raw.read_bytes()
    found = {}
    for index, line in enumerate(LINES):
        word = int.from_bytes(data[8 * index : 8 * index + 4], "little")
        found[line] = word if word & 3 == 3 else word & 0xFFFF
    return found


@pytest.mark.parametrize("line", LINES)
def test_a_load_or_store_is_told_from_its_encoding(words: dict[str, int], line: str) -> None:
    assert (load_store(0, words[line]), attempted(words[line])) == LINES[line]


def test_htinst_tells_a_compressed_instruction_by_its_second_bit(words: dict[str, int]) -> None:
    # Transformed: as expanded, with 0 where the base register was; bit 1 is clear of one that was compressed.
    wide = words["lwu a0, 4(a1)"] & ~(0x1F << 15) & 0xF_FFFF
    assert load_store(wide) == LoadStore(4, 10, False, False, 4)
    assert load_store(wide & ~2) == LoadStore(4, 10, False, False, 2)
    assert load_store(0x3000, words["lb a0, 5(a1)"]) is None, "hardware's own access is none of the instruction's"


def test_a_loaded_value_is_extended_as_the_instruction_says() -> None:
    assert LoadStore(2, 10, False, True, 4).extended(0x18000) == 0xFFFF_FFFF_FFFF_8000
    assert LoadStore(2, 10, False, False, 4).extended(0x18000) == 0x8000
