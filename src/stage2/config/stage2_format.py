"""Which format the stage-2 tables of a VM have: the one that was named, else the narrowest that reaches its memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, EncodingError
from ..formats import by_name, family_of
from ..formats.record import Format
from ..place import Place
from .cpu import NamedCpu

OPTION = "--stage2-format"
FORMATS = {
    "riscv64": ("sv39x4", "sv48x4", "sv57x4"),
    "aarch64": ("arm-s2-4k-40", "arm-s2-4k-44", "arm-s2-4k-48"),
    "x86_64": ("ept4", "ept5"),
}
"""Formats that are chosen from when none is named, by architecture, narrowest first."""
FOUR_LEVELS = {"riscv64": ("sv48x4", "sv57x4"), "aarch64": ("arm-s2-4k-48",), "x86_64": ("ept4", "ept5")}
"""The same when a board file asks for four-level tables; AxVisor's for Arm then translate 48 bits."""


@dataclass(frozen=True, slots=True)
class NamedFormat:
    """A stage-2 format that a user asked for by name.

    Args:
        format: the format.
        place: of the name in a VM file; None for the command line.
    """

    format: Format
    place: Place | None = None

    @property
    def arch(self) -> str:
        """The architecture whose format it is."""
        return arch_of(self.format)

    @property
    def who(self) -> str:
        """Who asks for it, for an error."""
        return f"{'[stage2] format' if self.place is not None else OPTION} {self.format.name}"

    def error(self, problem: str) -> ConfigError:
        """A ConfigError that says where the name stands."""
        return ConfigError(f"{self.who}: {problem}") if self.place is None else self.place.error(problem)


def arch_of(fmt: Format) -> str:
    """The architecture that a format belongs to, as files name it."""
    return family_of(fmt).arch


def named_format(name: str, place: Place | None = None) -> NamedFormat:
    """The stage-2 format of a name.

    Args:
        name: `npt4`, `arm-s2-16k-40`, `sv48x4` and so on.
        place: where it stands in a file; None for the command line.

    Raises:
        ConfigError: there is no such format, or it is one of stage 1.
    """
    try:
        fmt = by_name(name, stage=2)
        if fmt.stage != 2:
            usual = ", ".join(FORMATS[arch_of(fmt)])
            raise EncodingError(f"{name} is a format of stage 1, the guest's own; one of stage 2 is wanted: {usual}")
    except EncodingError as error:
        problem = str(error)
        raise (ConfigError(f"{OPTION}: {problem}") if place is None else place.error(problem)) from None
    return NamedFormat(fmt, place)


def format_reaching(
    arch: str,
    end: int,
    place: Place,
    *,
    named: NamedFormat | None = None,
    four_levels: bool = False,
    cpu: NamedCpu | None = None,
) -> Format:
    """The format for a VM's tables.

    Args:
        arch: the VM's architecture.
        end: one above the highest GPA that is declared.
        place: of the VM, for errors.
        named: the format to take; None for the narrowest that reaches `end`.
        four_levels: take no narrower one than the architecture's with four levels.
        cpu: the processor that must have the format.

    Raises:
        ConfigError: the named format is of another architecture, the processor does not have it, or nothing reaches
            `end`.
    """
    if named is not None:
        if named.arch != arch:
            usual = ", ".join(FORMATS[arch])
            raise named.error(f"is a format of {named.arch}, but the VM is {arch}: that has {usual} and others")
        if end > 1 << named.format.input_bits:
            raise named.error(f"memory goes up to GPA {end:#x}, but {_reach(named.format)}: name a wider format")
        if cpu is not None:
            cpu.controls(named.format)
        return named.format
    for name in (FOUR_LEVELS if four_levels else FORMATS)[arch]:
        fmt = by_name(name)
        if end <= 1 << fmt.input_bits:
            if cpu is not None:
                cpu.controls(fmt)
            return fmt
    raise place.error(
        f"memory goes up to GPA {end:#x}, but {_reach(fmt)}, and no wider format is chosen unless "
        f"[stage2] format or {OPTION} names it"
    )


def _reach(fmt: Format) -> str:
    return f"{fmt.name} translates {fmt.input_bits} bits, up to {1 << fmt.input_bits:#x}"
