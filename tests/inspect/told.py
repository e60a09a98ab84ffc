"""What a first process tells on the console of its kernel (`first_processes/linux.h`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """Where a kernel says that it is.

    Args:
        symbols: its own addresses of some symbols, by name.
        code: physical address of its first byte, as it sees physical memory: a guest's GPA.
    """

    symbols: Mapping[str, int]
    code: int

    def place(self, name: str) -> int:
        """Physical address of a symbol of its image, as it sees physical memory."""
        return self.code + self.symbols[name] - self.symbols["_text"]

    @property
    def root(self) -> int:
        """Physical address of the root that it has for itself, as it sees physical memory."""
        return self.place("init_top_pgt" if "init_top_pgt" in self.symbols else "swapper_pg_dir")


def kernel(console: str, before: str = "") -> Kernel:
    """What the console says of a kernel.

    Args:
        console: all of it.
        before: what its lines begin with besides.
    """
    begin = rf"(?m)^{re.escape(before)}lab: "
    symbols = {found[1]: int(found[2], 16) for found in re.finditer(rf"{begin}symbol (\S+) (0x\w+)", console)}
    code = re.search(rf"{begin}code (0x\w+)", console)
    assert code is not None, console[-3000:]
    assert "_text" in symbols, console[-3000:]
    return Kernel(symbols, int(code[1], 16))
