"""The Arm format records, made by name: `arm-s1` or `arm-s2`, granule, input width, and what is not the usual.

`arm-s2-4k-40` has the fewest levels that 16 concatenated root tables allow (D8.2.4 "Concatenated translation tables");
`arm-s2-4k-40-4level` begins one level higher. `-lpa2` is a 4 or 16 KiB granule with 52-bit addresses, `-lpa` a 64 KiB
granule with 52-bit output addresses (a wider input than 48 bits implies it), `-high` at stage 1 the half of the
addresses that TTBR1 serves.

With 64 KiB granules it is the processor, not PS or IPS, that says how wide the addresses in descriptors are: on one
with FEAT_LPA all tables are `-lpa` ones, under an output size that refuses what is too wide (`sized_controls`). The
names without it are those of processors without it.
"""

from __future__ import annotations

import re
from functools import cache

from ...errors import EncodingError
from ..outcome import TRANSLATION
from ..record import Format
from ..rules import ENTRY_SIZE, Rules
from . import layout, stage1, stage2

GRANULES = {"4k": 12, "16k": 14, "64k": 16}
MAX_CONCATENATED_BITS = 4
_GROUPS = {12: (4, 4, 4), 14: (7, 5), 16: (5, 5)}
"""log2 of the leaves that a contiguous hint joins, by granule and level (D8.7.1 "The Contiguous bit")."""
_LEAST_WIDE_ROOT = 64
"""Alignment in bytes of a root of few entries where its register holds 52-bit addresses: bits 51:48 stand in 5:2. Else
the root's own size decides alone (D8.2.3 "Translation table base address register", AArch64.S2TTBaseAddress)."""
_TOP_BLOCK = {12: 2, 14: 1, 16: 1}
_NAME = re.compile(r"arm-s(?P<stage>[12])-(?P<granule>4k|16k|64k)-(?P<bits>\d\d)(?P<rest>(?:-[a-z0-9]+)*)")
_MANUAL = "Arm ARM DDI 0487, D8.3 "


def by_name(name: str) -> Format:
    """The format called `name`.

    Raises:
        EncodingError: no such name, or the architecture does not allow the combination.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise EncodingError(
            f"no format is called {name!r}: Arm's are like arm-s2-4k-40, arm-s1-16k-47, arm-s2-4k-52-lpa2"
        )
    options = [option for option in match["rest"].split("-") if option]
    levels, lpa, lpa2, high = None, False, False, False
    for option in options:
        if re.fullmatch(r"[1-5]level", option):
            levels = int(option[0])
        elif option == "lpa":
            lpa = True
        elif option == "lpa2":
            lpa2 = True
        elif option == "high" and match["stage"] == "1":
            high = True
        else:
            raise EncodingError(f"{name}: {option!r} means nothing; -Nlevel, -lpa, -lpa2 and, at stage 1, -high do")
    shift, bits = GRANULES[match["granule"]], int(match["bits"])
    return make(int(match["stage"]), shift, bits, levels, lpa=lpa, lpa2=lpa2, high=high)


@cache
def make(
    stage: int,
    page_shift: int,
    bits: int,
    levels: int | None = None,
    *,
    lpa: bool = False,
    lpa2: bool = False,
    high: bool = False,
) -> Format:
    """A format by its parameters.

    Args:
        stage: 1 or 2.
        page_shift: log2 of the granule: 12, 14 or 16.
        bits: width of input addresses: 64 - T0SZ.
        levels: number of levels; None for the fewest.
        lpa: 52-bit output addresses with the granule of 64 KiB (FEAT_LPA); implied by more than 48 input bits.
        lpa2: 52-bit addresses with a granule below 64 KiB (TCR.DS).
        high: the half of the addresses that TTBR1 serves.

    Raises:
        EncodingError: the architecture does not allow it.
    """
    granule = next(name for name, shift in GRANULES.items() if shift == page_shift)
    per_level = page_shift - 3
    if lpa and page_shift != 16:
        raise EncodingError(f"LPA is for 64 KiB granules; {granule} has 52-bit addresses with LPA2")
    lpa = lpa or (page_shift == 16 and bits > 48)
    if lpa2 and page_shift == 16:
        raise EncodingError("LPA2 is for 4 and 16 KiB granules; 64 KiB has 52-bit addresses without it")
    widest = 52 if lpa2 or page_shift == 16 else 48
    narrowest = 25
    if not narrowest <= bits <= widest:
        raise EncodingError(
            f"{granule} granules{' with LPA2' if lpa2 else ''} translate {narrowest} to {widest} bits, not {bits}"
        )
    spare = MAX_CONCATENATED_BITS if stage == 2 else 0
    fewest = next(n for n in range(1, 6) if bits - page_shift - per_level * (n - 1) <= per_level + spare)
    if stage == 2 and fewest == 1 and bits - page_shift > per_level:
        # Two levels, rather than one of concatenated tables.
        fewest = 2
    chosen = fewest if levels is None else levels
    root_bits = bits - page_shift - per_level * (chosen - 1)
    if not 1 <= root_bits <= per_level + spare:
        tables = 1 << max(root_bits - per_level, 0)
        raise EncodingError(
            f"{bits} bits with {granule} granules cannot have {chosen} levels: "
            + (f"{tables} root tables would have to be concatenated, and 16 may be" if root_bits > 0 else "too many")
        )
    name = f"arm-s{stage}-{granule}-{bits}" + ("" if chosen == fewest else f"-{chosen}level")
    name += ("-lpa" if lpa and bits <= 48 else "-lpa2" if lpa2 else "") + ("-high" if high else "")
    output_bits = 52 if lpa or lpa2 else 48
    # AArch64.BlockDescSupported.
    top_block = _TOP_BLOCK[page_shift] + (1 if lpa or lpa2 else 0)
    controls = page_shift << layout.PAGE_SHIFT_AT | top_block << layout.TOP_BLOCK_AT
    controls |= output_bits << layout.OUTPUT_BITS_AT | (layout.LPA if lpa else 0) | (layout.LPA2 if lpa2 else 0)
    entries = stage2 if stage == 2 else stage1
    concatenated = f", {1 << root_bits - per_level} root tables concatenated" if root_bits > per_level else ""
    return Format(
        name=name,
        title=f"Arm stage {stage}, {granule} granule, {chosen} levels, {bits}-bit input{concatenated}",
        rules=_rules(stage, lpa=lpa, lpa2=lpa2),
        stage=stage,
        levels=chosen,
        root_bits=root_bits,
        top_leaf_level=min(top_block, chosen - 1),
        output_bits=output_bits,
        sign_extended=False,
        table_bits=layout.VALID | layout.TABLE_OR_PAGE,
        fields=entries.FIELDS,
        default_controls=controls | (stage2.XNX if stage == 2 else 0),
        hardware_ad=layout.HA | layout.HD,
        manual=_MANUAL + '"Translation table descriptor formats"',
        switches=entries.SWITCHES,
        page_shift=page_shift,
        bits=per_level,
        group_bits=_GROUPS[page_shift][:chosen],
        break_before_make=True,
        least_root_alignment=_LEAST_WIDE_ROOT if lpa or lpa2 else ENTRY_SIZE,
        wide_input_fault=TRANSLATION,
        high_half=high,
    )


def sized_controls(fmt: Format, output_bits: int) -> int:
    """The format's default controls with another output size.

    Args:
        fmt: any of Arm's.
        output_bits: what IPS or PS, the processor and the format allow, in bits.
    """
    return fmt.default_controls & ~layout.OUTPUT_BITS | output_bits << layout.OUTPUT_BITS_AT


_SEARCHED = (
    "arm-s1-4k-48", "arm-s1-4k-39", "arm-s1-4k-52-lpa2", "arm-s1-4k-48-lpa2",
    "arm-s1-16k-47", "arm-s1-16k-48", "arm-s1-16k-36", "arm-s1-16k-52-lpa2",
    "arm-s1-64k-52", "arm-s1-64k-48", "arm-s1-64k-42",
    "arm-s2-4k-40", "arm-s2-4k-39", "arm-s2-4k-42", "arm-s2-4k-43", "arm-s2-4k-48", "arm-s2-4k-44-4level",
    "arm-s2-4k-40-lpa2", "arm-s2-4k-48-lpa2", "arm-s2-4k-52-lpa2",
    "arm-s2-16k-40", "arm-s2-16k-47", "arm-s2-16k-48", "arm-s2-16k-52-lpa2",
    "arm-s2-64k-40", "arm-s2-64k-42", "arm-s2-64k-48", "arm-s2-64k-52",
)  # fmt: skip
"""Widths that systems use: Linux's stage 1 and KVM's stage 2 in every granule, and Xen's. Where tables leave open which
of two it is, the first of them is meant."""


@cache
def searched() -> tuple[tuple[Format, int], ...]:
    """See `Family.searched`. At stage 1 both halves of the addresses."""
    low = [by_name(name) for name in _SEARCHED]
    high = [by_name(f"{fmt.name}-high") for fmt in low if fmt.stage == 1]
    return tuple((fmt, fmt.default_controls) for fmt in (*low, *high))


def _assumes(fmt: Format) -> str | None:
    """The granule, which `decode` reads from the controls, must be the record's (D8.3)."""
    told = fmt.default_controls >> layout.PAGE_SHIFT_AT & 0x1F
    if told != fmt.page_shift:
        return f"its controls tell the rules of pages of 2^{told} bytes, and its pages have 2^{fmt.page_shift}"
    if fmt.page_shift not in GRANULES.values():
        return "Arm has granules of 4, 16 and 64 KiB"
    return None


@cache
def _rules(stage: int, *, lpa: bool, lpa2: bool) -> Rules:
    entries = stage2 if stage == 2 else stage1
    return Rules(
        name=f"Arm stage {stage}",
        family="arm",
        decode=entries.decode,
        permissions=entries.permissions,
        mark=entries.mark,
        pack_address=layout.pack_address_lpa if lpa else layout.pack_address_lpa2 if lpa2 else layout.pack_address,
        resize=layout.resize_lpa2 if lpa2 else layout.resize,
        inherit=entries.inherit,
        forget=entries.forget,
        encode_leaf=entries.encode_leaf,
        group=layout.group,
        ungroup=layout.ungroup,
        assumes=_assumes,
        root_too_wide=layout.root_too_wide,
        root_fault_level=layout.ROOT_FAULT_LEVEL,
    )
