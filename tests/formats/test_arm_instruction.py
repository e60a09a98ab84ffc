"""Which loads and stores have a syndrome in ESR_EL2, and what it says (D24.2 "ESR_EL2", ISV to AR).

Words are as the assembler writes them; what each should give is the manual's table of ISV, read a second time.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.flags import Access
from stage2.formats.arm.instruction import describe, instruction_syndrome
from stage2.formats.arm.syndromes import encode_esr
from stage2.formats.outcome import FaultKind

# word -> (bytes, register, 64-bit register, sign extended, acquire or release).
TOLD = {
    0xB900003F: (4, 31, False, False, False),  # str wzr, [x1]
    0xF9000023: (8, 3, True, False, False),  # str x3, [x1]
    0x39400023: (1, 3, False, False, False),  # ldrb w3, [x1]
    0x79400023: (2, 3, False, False, False),  # ldrh w3, [x1]
    0x39800023: (1, 3, True, True, False),  # ldrsb x3, [x1]
    0x39C00023: (1, 3, False, True, False),  # ldrsb w3, [x1]
    0x79800023: (2, 3, True, True, False),  # ldrsh x3, [x1]
    0xB9800023: (4, 3, True, True, False),  # ldrsw x3, [x1]
    0xB85FC023: (4, 3, False, False, False),  # ldur w3, [x1, #-4]
    0xF8408023: (8, 3, True, False, False),  # ldur x3, [x1, #8]
    0xB8400823: (4, 3, False, False, False),  # ldtr w3, [x1]
    0xF8000823: (8, 3, True, False, False),  # sttr x3, [x1]
    0xB8800823: (4, 3, True, True, False),  # ldtrsw x3, [x1]
    0xF8626823: (8, 3, True, False, False),  # ldr x3, [x1, x2]
    0x38226823: (1, 3, False, False, False),  # strb w3, [x1, x2]
    0x18000043: (4, 3, False, False, False),  # ldr w3, label
    0x58000043: (8, 3, True, False, False),  # ldr x3, label
    0x98000043: (4, 3, True, True, False),  # ldrsw x3, label
    0x88DFFC23: (4, 3, False, False, True),  # ldar w3, [x1]
    0x089FFC23: (1, 3, False, False, True),  # stlrb w3, [x1]
    0xC8DF7C23: (8, 3, True, False, True),  # ldlar x3, [x1]
    0xC89F7C23: (8, 3, True, False, True),  # stllr x3, [x1]
    0x38BFC023: (1, 3, False, False, True),  # ldaprb w3, [x1]
    0xF8BFC023: (8, 3, True, False, True),  # ldapr x3, [x1]
    0xD9008023: (8, 3, True, False, True),  # stlur x3, [x1, #8]
    0x99408023: (4, 3, False, False, True),  # ldapur w3, [x1, #8]
    0x99808023: (4, 3, True, True, True),  # ldapursw x3, [x1, #8]
    0xF8200423: (8, 3, True, False, False),  # ldraa x3, [x1]
}
NOT_TOLD = {
    0xB8404423: "ldr w3, [x1], #4",
    0xB8404C23: "ldr w3, [x1, #4]!",
    0xF81F8C23: "str x3, [x1, #-8]!",
    0xF8200C23: "ldraa x3, [x1]!",
    0xA9400823: "ldp x3, x2, [x1]",
    0x29000823: "stp w3, w2, [x1]",
    0x885F7C23: "ldxr w3, [x1]",
    0xC85FFC23: "ldaxr x3, [x1]",
    0x88047C23: "stxr w4, w3, [x1]",
    0x48247C22: "casp x4, x5, x2, x3, [x1]",
    0x88A47C23: "cas w4, w3, [x1]",
    0xB8240023: "ldadd w4, w3, [x1]",
    0xF8248023: "swp x4, x3, [x1]",
    0xBD400023: "ldr s3, [x1]",
    0x3DC00023: "ldr q3, [x1]",
    0x1C000043: "ldr s3, label",
    0xF9800020: "prfm pldl1keep, [x1]",
    0xD8000040: "prfm pldl1keep, label",
    0xB9C00023: "unallocated: 4 bytes, sign-extended into 32",
    0xF9C00023: "unallocated: 8 bytes, sign-extended into 32",
    0xF83FD020: "ld64b x0, [x1]",
    0xD9200823: "stg x3, [x1]",
    0xD9600023: "ldg x3, [x1]",
    0xD50B7421: "dc zva, x1",
    0x0C407023: "ld1 {v3.8b}, [x1]",
    0xD503201F: "nop",
}


@pytest.mark.parametrize(
    ("word", "expected"), TOLD.items(), ids=lambda item: hex(item) if isinstance(item, int) else ""
)
def test_a_load_or_store_of_one_register_is_told(word: int, expected: tuple[int, int, bool, bool, bool]) -> None:
    size, register, wide, signed, ordered = expected
    iss = 1 << 24 | (size.bit_length() - 1) << 22 | signed << 21 | register << 16 | wide << 15 | ordered << 14
    assert instruction_syndrome(word) == iss
    name = f"{'x' if wide else 'w'}{'zr' if register == 31 else register}"
    assert describe(iss).startswith(f"The instruction loads {size} byte{'s' if size > 1 else ''} into {name}")
    assert describe(iss | 1 << 6) == f"The instruction stores {size} byte{'s' if size > 1 else ''} of {name}."


@pytest.mark.parametrize("word", NOT_TOLD, ids=NOT_TOLD.get)
def test_other_accesses_are_not_told(word: int) -> None:
    assert instruction_syndrome(word) == 0


@given(word=st.integers(0, (1 << 32) - 1))
def test_any_word_gives_a_whole_syndrome_or_none(word: int) -> None:
    found = instruction_syndrome(word)
    assert found >> 25 == 0
    assert found & 0x3FFF == 0
    assert bool(found) == bool(found & 1 << 24)
    assert found == 0 or found >> 16 & 31 == word & 31


def test_the_store_of_a_zero_to_what_is_read_only() -> None:
    """`str wzr, [x1]`: 0x939f004f."""
    esr = encode_esr(FaultKind.PERMISSION, 2, 0, Access.WRITE, lower=True, instruction=0xB900003F)
    assert esr == 0x939F004F


@pytest.mark.parametrize(
    ("kind", "stage", "access", "on_table"),
    [
        (FaultKind.PERMISSION, 1, Access.WRITE, False),
        (FaultKind.TRANSLATION, 2, Access.WRITE, True),
        (FaultKind.TABLE_OUTSIDE_MEMORY, 2, Access.WRITE, False),
        (FaultKind.TRANSLATION, 2, Access.FETCH, False),
    ],
)
def test_only_the_accesss_own_faults_at_stage_2_tell_the_instruction(
    kind: FaultKind, stage: int, access: Access, on_table: bool
) -> None:
    """AArch64.FaultSyndrome: of stage 2, not on a stage-1 walk, no external abort, a data abort."""
    arguments = {"lower": True, "on_table": on_table}
    told = encode_esr(kind, stage, 1, access, **arguments, instruction=0xB900003F)
    assert told == encode_esr(kind, stage, 1, access, **arguments)
