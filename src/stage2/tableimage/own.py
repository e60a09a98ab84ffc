"""The hypervisor's own tables in a folder of `stage2 build`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..address import Range
from ..formats import family_of
from .pieces import TableFiles, copy_table, registers_json

if TYPE_CHECKING:
    from ..hypervisor.plan import Piece
    from ..hypervisor.space import HypervisorSpace

FOLDER = "hypervisor"
"""The subfolder of its tables; with two roots, `-low` and `-high` follow."""
FOLDERS = (FOLDER, f"{FOLDER}-low", f"{FOLDER}-high")
KEY = "hypervisor"
"""Of the manifest."""


@dataclass(frozen=True, slots=True)
class OwnTables:
    """The hypervisor's tables, copied out of the host's memory.

    Args:
        arch: the architecture as files name it.
        registers: what to load, by the manual's names.
        halves: the files of each root, low addresses first.
        pieces: what is mapped where.
        guard: HVAs of the boot stack's guard page.
        free: HPAs that neither image nor tables occupy.
    """

    arch: str
    registers: dict[str, int]
    halves: tuple[TableFiles, ...]
    pieces: tuple[Piece, ...]
    guard: Range | None
    free: tuple[Range, ...]

    def manifest(self) -> dict[str, Any]:
        """Its part of the manifest."""
        return {
            "arch": self.arch,
            **registers_json(self.registers),
            "halves": [half.manifest() for half in self.halves],
            "pieces": [piece_json(piece) for piece in self.pieces],
            "guard": None if self.guard is None else [self.guard.start, self.guard.end],
            "free": [[span.start, span.end] for span in self.free],
        }

    def files(self) -> dict[str, bytes]:
        """Every file, by its path within the folder."""
        found: dict[str, bytes] = {}
        for half in self.halves:
            found |= half.files("Own tables of the hypervisor", self.registers)
        return found


def piece_json(piece: Piece) -> dict[str, Any]:
    """What the hypervisor maps in one place."""
    return {
        "name": piece.name,
        "hva": piece.span.start,
        "hva_hex": f"{piece.span.start:#x}",
        "hpa": piece.hpa,
        "hpa_hex": f"{piece.hpa:#x}",
        "size": piece.span.size,
        "flags": int(piece.flags),
        "flags_text": piece.flags.short,
    }


def collect_own(space: HypervisorSpace) -> OwnTables:
    """The hypervisor's tables as they are now."""
    family = family_of(space.tables[0].format)
    names = FOLDERS[:1] if len(space.tables) == 1 else FOLDERS[1:]
    return OwnTables(
        arch=family.arch,
        registers=space.registers(),
        halves=tuple(
            copy_table(table, space.frames.memory, family.arch, name)
            for table, name in zip(space.tables, names, strict=True)
        ),
        pieces=tuple(space.plan),
        guard=space.plan.guard,
        free=space.free_memory,
    )
