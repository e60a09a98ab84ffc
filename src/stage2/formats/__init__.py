"""Table formats, a folder per family. `by_name` finds one; importing this imports no family.

A folder is all that a family needs to be found: see `docs/adding-a-format.md`.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
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
    "families",
    "hardware_report",
    "memory_type",
    "names",
    "register_by_name",
    "registers",
    "stage_2_registers",
]


def families() -> tuple[str, ...]:
    """The folders beside this file: each holds a family, and says in its `__init__` which formats it has."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def names() -> tuple[str, ...]:
    """The names of the formats that translate; of Arm's, the common ones."""
    return tuple(name for family in families() for name in _family(family).NAMES)


def by_name(name: str) -> Format:
    """The format called `name`.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    for family in families():
        found = _family(family)
        prefix: str | None = getattr(found, "MADE_BY_NAME", None)
        if prefix is not None and name.startswith(prefix):
            made: Format = import_module(f".{family}.formats", __name__).by_name(name)
            return made
        if name in found.NAMES:
            records: tuple[Format, ...] = import_module(f".{family}.{found.NAMES[name]}", __name__).FORMATS
            return next(record for record in records if record.name == name)
    near = difflib.get_close_matches(name, names(), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise EncodingError(f"no format is called {name!r}{hint}: there are {', '.join(names())}")


def _family(family: str) -> ModuleType:
    return import_module(f".{family}", __name__)


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


def registers() -> tuple[Register, ...]:
    """Every register that can be told in words, family by family."""
    return tuple(found for family in families() for found in _family_registers(family))


def register_by_name(name: str) -> Register:
    """The register called `name`, or one of whose aliases it is; case does not matter.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    known: list[str] = []
    for family in families():
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
