"""Table formats, a folder per family. `by_name` finds one; importing this imports no family."""

from __future__ import annotations

import difflib
from importlib import import_module

from ..errors import EncodingError
from .record import Field, Format

__all__ = ["Field", "Format", "by_name", "names", "stage_2_registers"]

_MODULES = {
    "sv39": "riscv.formats",
    "sv48": "riscv.formats",
    "sv57": "riscv.formats",
    "sv39x4": "riscv.formats",
    "sv48x4": "riscv.formats",
    "sv57x4": "riscv.formats",
    "ept4": "x86.ept",
}


def names() -> tuple[str, ...]:
    """The names of all formats that translate."""
    return tuple(_MODULES)


def by_name(name: str) -> Format:
    """The format called `name`.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    if name not in _MODULES:
        near = difflib.get_close_matches(name, _MODULES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise EncodingError(f"no format is called {name!r}{hint}: there are {', '.join(_MODULES)}")
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
