"""Board files of AxVisor's head: build settings for `cargo`. They have no memory in them; they are recognised so
that they can be told from VM files, and say for which architecture, with how many levels, tables are built."""

from __future__ import annotations

from dataclasses import dataclass

from .document import Document, Notice
from .extensions import ARCHITECTURES
from .wording import shown

_FOUR_LEVELS = {"ept-level-4", "4-level-ept"}
"""Features, of the hypervisor or of a crate in it (`axaddrspace/4-level-ept`), that ask for four-level tables."""


@dataclass(frozen=True, slots=True)
class BoardConfig:
    """A board file.

    Args:
        file: path as the user named it.
        target: Rust's name of the target.
        arch: the architecture in it, or None for one we do not know.
        features: cargo features.
        vm_configs: VM files that are built in.
        notices: what a user should know about the file.
    """

    file: str
    target: str
    arch: str | None
    features: tuple[str, ...]
    vm_configs: tuple[str, ...]
    notices: tuple[Notice, ...]

    @property
    def meaning(self) -> str:
        """What the file is, for a user who took it for something else."""
        return (
            f"a board file of AxVisor's head (build settings for {shown(self.target)}); it describes no memory: "
            "give a VM file, and this one with --platform"
        )

    @property
    def four_levels(self) -> bool:
        """Whether a feature asks for four-level stage-2 tables."""
        return any(feature.rpartition("/")[2] in _FOUR_LEVELS for feature in self.features)


def read_board(document: Document) -> BoardConfig:
    """Read a board file.

    Raises:
        ConfigError: a value is wrong.
    """
    root = document.root
    item = root.need("target", "the target cargo builds for")
    target = item.name()
    machine = target.split("-", 1)[0]
    # Rust spells the extensions out: riscv64gc, riscv64imac.
    arch = ARCHITECTURES.get("riscv64" if machine.startswith("riscv64") else machine)
    if arch is None:
        item.notice(f"{shown(target)} is of no architecture known here: {', '.join(ARCHITECTURES)}")
    strings = "an array of strings"
    features = tuple(feature.text() for feature in root.elements("features", strings))
    vm_configs = tuple(path.text() for path in root.elements("vm_configs", strings))
    for key in ("cargo_args", "log", "to_bin", "smp"):
        root.find(key)
    root.note_unknown()
    return BoardConfig(document.file, target, arch, features, vm_configs, tuple(document.notices))
