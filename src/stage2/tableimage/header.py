"""The C header beside the tables: register values, addresses and the symbols of the object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..formats.duties import DUTIES
from ..vm.report import RegionReport


def c_header(
    title: str,
    symbol: str,
    registers: Mapping[str, int],
    root: int,
    segments: Sequence[tuple[int, int]],
    regions: Sequence[RegionReport] = (),
) -> str:
    """The text of the header.

    Args:
        title: what tables these are and their format, for the comment.
        symbol: the VM's name in C identifiers.
        registers: values to load, by the manual's names.
        root: HPA of the root table.
        segments: (HPA, size) of each piece of tables, in order.
        regions: of the VM: those that have host memory are told with every piece of it (RAM, ROM, shares).
    """
    prefix = f"STAGE2_{symbol.upper()}"
    # A name from a file must not end the comment, nor seem to begin one.
    shown = title.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("\n", " ").replace("?", ".")
    lines = [
        f"/* {shown}. Each piece must lie at its HPA: entries hold HPAs. */",
        f"#ifndef {prefix}_TABLES_H",
        f"#define {prefix}_TABLES_H",
        "",
        *(
            f"#define {prefix}_{register.upper()} {value:#x}ULL /* {DUTIES[register]} */"
            for register, value in registers.items()
        ),
        f"#define {prefix}_ROOT {root:#x}ULL",
        f"#define {prefix}_SEGMENTS {len(segments)}",
    ]
    for number, (hpa, size) in enumerate(segments):
        lines += [f"#define {prefix}_HPA_{number} {hpa:#x}ULL", f"#define {prefix}_SIZE_{number} {size:#x}ULL"]
    for name, region in _named(regions).items():
        lines += [
            f"#define {prefix}_{name}_GPA {region.start:#x}ULL",
            f"#define {prefix}_{name}_SIZE {region.size:#x}ULL",
            f"#define {prefix}_{name}_PIECES {len(region.hpa)}",
        ]
        for number, (start, end) in enumerate(region.hpa):
            lines += [
                f"#define {prefix}_{name}_HPA_{number} {start:#x}ULL",
                f"#define {prefix}_{name}_HPA_SIZE_{number} {end - start:#x}ULL",
            ]
    lines += [
        "",
        "#ifndef __ASSEMBLER__",
        *(
            f"extern unsigned char stage2_{symbol}_tables_{number}[{size:#x}];"
            for number, (_, size) in enumerate(segments)
        ),
        f"extern unsigned char stage2_{symbol}_root[];",
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _named(regions: Sequence[RegionReport]) -> dict[str, RegionReport]:
    """The regions with host memory by a name that no other one has in C."""
    found: dict[str, RegionReport] = {}
    for region in regions:
        if region.hpa:
            plain = "REGION_" + (re.sub(r"[^A-Za-z0-9]", "_", region.name).upper() or f"{region.start:X}")
            found[plain if plain not in found else f"{plain}_{region.start:X}"] = region
    return found
