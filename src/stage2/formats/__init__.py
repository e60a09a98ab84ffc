"""Table formats, a folder per family. `by_name` finds one; importing this imports no family."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import EncodingError
from .effective import EffectiveType, Leaf, TypeSources
from .record import Field, Format
from .register import Register

if TYPE_CHECKING:
    from ..flags import Access, MappingFlags
    from .syndrome import Refusal

__all__ = [
    "EffectiveType",
    "Field",
    "Format",
    "Leaf",
    "Register",
    "TypeSources",
    "by_name",
    "effective_type",
    "hardware_report",
    "memory_type",
    "names",
    "register_by_name",
    "registers",
    "stage_2_registers",
]

_MODULES = {
    "sv39": "riscv.formats",
    "sv48": "riscv.formats",
    "sv57": "riscv.formats",
    "sv39x4": "riscv.formats",
    "sv48x4": "riscv.formats",
    "sv57x4": "riscv.formats",
    "x86-4level": "x86.longmode",
    "x86-5level": "x86.longmode",
    "ept4": "x86.ept",
    "ept5": "x86.ept",
    "npt4": "x86.longmode",
    "npt5": "x86.longmode",
}
_ARM = "arm-"
"""Arm's formats are made by name: too many combinations are legal to list them."""


def names() -> tuple[str, ...]:
    """The names of the formats that translate; of Arm's, the common ones."""
    from .arm.formats import COMMON

    return (*_MODULES, *COMMON)


def by_name(name: str) -> Format:
    """The format called `name`.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    if name.startswith(_ARM):
        from .arm import formats as arm

        return arm.by_name(name)
    if name not in _MODULES:
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise EncodingError(
            f"no format is called {name!r}{hint}: there are {', '.join(_MODULES)}, and arm-s2-4k-40 etc."
        )
    records: tuple[Format, ...] = import_module(f".{_MODULES[name]}", __name__).FORMATS
    return next(record for record in records if record.name == name)


def stage_2_registers(fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
    """The registers to load for a stage-2 regime, by the manual's names.

    Args:
        fmt: a stage-2 format.
        root: HPA of the root table.
        controls: the regime's control bits.
        identifier: VMID or VPID.

    Raises:
        MisalignedError, OutOfRangeError: the root or the identifier does not fit the register.
    """
    registers: dict[str, int] = import_module(f".{fmt.family}.registers", __name__).stage_2_registers(
        fmt, root, controls, identifier
    )
    return registers


_FAMILIES = ("riscv", "x86", "arm")


def registers() -> tuple[Register, ...]:
    """Every register that can be told in words, family by family."""
    return tuple(found for family in _FAMILIES for found in _family_registers(family))


def register_by_name(name: str) -> Register:
    """The register called `name`, or one of whose aliases it is; case does not matter.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    known: list[str] = []
    for family in _FAMILIES:
        for found in _family_registers(family):
            spellings = [spelling.lower() for spelling in (found.name, *found.aliases)]
            if name.lower() in spellings:
                return found
            known += spellings
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise EncodingError(
        f"no register is called {name!r}{hint}: there are {', '.join(found.name for found in registers())}"
    )


def _family_registers(family: str) -> tuple[Register, ...]:
    module = f"{__name__}.{family}.registers"
    if find_spec(module) is None:
        return ()
    found: tuple[Register, ...] = getattr(import_module(module), "REGISTERS", ())
    return found


def memory_type(fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
    """The memory type in a leaf's attributes.

    Returns:
        A word (`write-back`), None where the entry does not decide it; and what else that hangs on, as a sentence.
    """
    found: tuple[str | None, str] = import_module(f".{fmt.family}.memory_types", __name__).memory_type(
        fmt, attributes, controls
    )
    return found


def effective_type(stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources | None = None) -> EffectiveType:
    """The memory type that both stages together give an access.

    Args:
        stage_1: the leaf of the guest's own walk; None while its stage 1 is off.
        stage_2: the leaf of the hypervisor's walk; None without a second stage.
        sources: what else decides, as far as it is known.

    Raises:
        EncodingError: a type is reserved, the leaves are of two families, or there is no leaf at all.
    """
    families = {leaf.format.family for leaf in (stage_1, stage_2) if leaf is not None}
    if len(families) != 1:
        raise EncodingError(
            f"leaves of {' and '.join(sorted(families))} do not combine" if families else "no leaf has a memory type"
        )
    found: EffectiveType = import_module(f".{families.pop()}.effective", __name__).effective_type(
        stage_1, stage_2, sources or TypeSources()
    )
    return found


def hardware_report(
    fmt: Format, fault: Refusal, access: Access, gva: int | None, gpa: int, allowed: MappingFlags
) -> dict[str, int]:
    """The registers in which hardware reports to the hypervisor that stage 2 refused an access, by their names in the
    manual; `stage2 explain fault` takes them as they are.

    Each family's module `syndromes` has a function of this name and these arguments.

    Args:
        fmt: the stage-2 format.
        fault: what stage 2 says.
        access: what the guest's instruction attempted, also when stage 2 refused an access to a stage-1 table on its
            behalf.
        gva: the guest's own address, None when there is none.
        gpa: the address that stage 2 was asked for; of the table's entry when it refused an access to a table.
        allowed: what stage 2 allows there; nothing where it has no mapping.

    Returns:
        Name to value.

    Raises:
        EncodingError: no hardware reports such a fault.
    """
    registers: dict[str, int] = import_module(f".{fmt.family}.syndromes", __name__).hardware_report(
        fmt, fault, access, gva, gpa, allowed
    )
    return registers
