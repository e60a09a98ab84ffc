"""The RISC-V format records. Sv39 and Sv39x4 differ in the width of the root and in one control bit."""

from __future__ import annotations

from dataclasses import replace

from ..record import Format
from ..rules import Rules
from . import entry

_MANUAL = "RISC-V Privileged, "
_MODES = {3: "39", 4: "48", 5: "57"}


def _assumes(fmt: Format) -> str | None:
    """What `entry` takes for granted (Privileged, "Sv39" to "Sv57", and "Guest Physical Address Translation")."""
    if fmt.page_shift != 12 or fmt.bits != 9:
        return "RISC-V's entries of 64 bits have pages of 4 KiB and 9 index bits a level"
    if fmt.levels not in _MODES:
        return (
            f"RISC-V's entries of 64 bits have 3 to 5 levels, not {fmt.levels}: the 2 levels of Sv32 have 32-bit ones"
        )
    wanted = 11 if fmt.stage == 2 else 9
    if fmt.root_bits != wanted:
        return f"RISC-V's root at stage {fmt.stage} has {wanted} index bits, not {fmt.root_bits}"
    return None


RULES = Rules(
    name="RISC-V",
    family="riscv",
    decode=entry.decode,
    permissions=entry.permissions,
    mark=entry.mark,
    pack_address=entry.pack_address,
    resize=entry.resize,
    inherit=entry.inherit,
    forget=entry.forget,
    encode_leaf=entry.encode_leaf,
    group=entry.group,
    ungroup=entry.ungroup,
    assumes=_assumes,
)


def _record(name: str, levels: int, *, g_stage: bool) -> Format:
    bits = 12 + 9 * levels + (2 if g_stage else 0)
    chapter = '"Guest Physical Address Translation"' if g_stage else f'"{name.capitalize()}"'
    return Format(
        name=name,
        title=f"RISC-V {name.capitalize()}, stage {2 if g_stage else 1}, {levels} levels, {bits}-bit input",
        rules=RULES,
        stage=2 if g_stage else 1,
        levels=levels,
        # The root of the G-stage is four times as large: two more index bits (16 KiB, 16 KiB aligned).
        root_bits=11 if g_stage else 9,
        top_leaf_level=levels - 1,
        output_bits=56,
        sign_extended=not g_stage,
        table_bits=entry.V,
        fields=entry.G_STAGE_FIELDS if g_stage else entry.STAGE_1_FIELDS,
        default_controls=entry.G_STAGE if g_stage else 0,
        hardware_ad=entry.HARDWARE_AD,
        manual=_MANUAL + chapter,
        switches=entry.G_STAGE_SWITCHES if g_stage else entry.STAGE_1_SWITCHES,
        group_bits=(entry.NAPOT_BITS,),
        group_translates=True,
    )


SV39 = _record("sv39", 3, g_stage=False)
SV48 = _record("sv48", 4, g_stage=False)
SV57 = _record("sv57", 5, g_stage=False)
SV39X4 = _record("sv39x4", 3, g_stage=True)
SV48X4 = _record("sv48x4", 4, g_stage=True)
SV57X4 = _record("sv57x4", 5, g_stage=True)


def bare(stage: int) -> Format:
    """Bare: output equals input, nothing is protected (satp, vsatp or hgatp MODE 0)."""
    return replace(
        SV39 if stage == 1 else SV39X4,
        name=f"bare-s{stage}",
        title=f"RISC-V Bare, stage {stage}: no translation, no protection",
        levels=0,
        root_bits=0,
        top_leaf_level=0,
        sign_extended=False,
        fields=(),
        switches={},
        default_controls=0,
        manual=_MANUAL + '"satp" and "hgatp" registers, MODE Bare',
    )


BARE_STAGE_1 = bare(1)
BARE_STAGE_2 = bare(2)

FORMATS = (SV39, SV48, SV57, SV39X4, SV48X4, SV57X4, BARE_STAGE_1, BARE_STAGE_2)
