"""What a family of formats offers beside its records: a Protocol that an object in each folder fulfils.

A folder of `formats` is found by itself; its `__init__` holds `FAMILY`, an object of this shape. It imports its own
modules when they are first asked for, so that naming a family loads nothing of it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from ..errors import EncodingError
from ..processor import Processor
from .record import Format

if TYPE_CHECKING:
    from ..flags import Access
    from .change import Change
    from .effective import EffectiveType, Leaf, TypeSources
    from .invalidation import Context, Operation
    from .register import Register
    from .selected import Registers, SelectedRoot
    from .syndrome import Refusal


class Family(Protocol):
    """One family of formats: what an architecture has around its tables."""

    @property
    def name(self) -> str:
        """Its folder: `arm`."""

    @property
    def arch(self) -> str:
        """The architecture as files name it: "aarch64", "riscv64" or "x86_64" of today's."""

    @property
    def names(self) -> tuple[str, ...]:
        """The formats that lists and tests go through."""

    def by_name(self, name: str) -> Format | None:
        """The format called `name`; None if the name is not of this family.

        Raises:
            EncodingError: the name is of this family, and no such format can be.
        """

    def manual_level(self, level: int) -> int | None:
        """The number that the manual gives a level of ours (0 is the smallest page); None where it counts as we do, or
        gives levels names.
        """

    def registers(self) -> tuple[Register, ...]:
        """Every register that can be told in words."""

    def controls(self, fmt: Format, processor: Processor) -> int:
        """The control bits of a newly built regime on a processor; the format's defaults for the family's `max`.

        Raises:
            EncodingError: the processor does not have such tables; the text says what it lacks.
        """

    def require(self, fmt: Format, processor: Processor, controls: int) -> None:
        """Refuse controls that ask for what a processor does not have.

        Raises:
            EncodingError: what it lacks.
        """

    def output_bits(self, fmt: Format, processor: Processor) -> int:
        """Width of the addresses that a format's tables lead to on a processor."""

    def stage_2_registers(self, fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
        """The registers to load for a stage-2 regime, by the manual's names.

        Args:
            fmt: a stage-2 format.
            root: HPA of the root table.
            controls: the regime's control bits.
            identifier: VMID or VPID.

        Raises:
            MisalignedError, OutOfRangeError: the root or the identifier does not fit the register.
        """

    def roots(self, registers: Registers) -> tuple[tuple[SelectedRoot, ...], tuple[str, ...]]:
        """The tables that the registers of one CPU select, and what of them makes no sense, a sentence each.

        Args:
            registers: those that are known, by the manual's names.
        """

    def searched(self) -> tuple[tuple[Format, int], ...]:
        """The formats, with controls, by which tables that others made are searched for; each width but once.

        What a register decides about entries and nothing tells is taken to be as systems usually have it.
        """

    def own_controls(self, fmt: Format, processor: Processor | None, *, both: bool) -> int:
        """The control bits of a hypervisor's own regime.

        Args:
            fmt: a stage-1 format.
            processor: what the tables are for; None for no particular one.
            both: Arm's regime with two roots (EL2&0); elsewhere there is one kind.

        Raises:
            EncodingError: the processor does not have such tables.
        """

    def own_registers(self, halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
        """The registers to load for a hypervisor's own tables, by the manual's names.

        Args:
            halves: format, root and control bits of each table: one, or Arm's for low and for high addresses.

        Raises:
            MisalignedError, OutOfRangeError: a root does not fit its register.
        """

    def memory_type(self, fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
        """The memory type in a leaf's attributes.

        Returns:
            A word (`write-back`), None where the entry does not decide it; and what else that hangs on, as a sentence.
        """

    def effective_type(self, stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources) -> EffectiveType:
        """The memory type that both stages together give an access.

        Args:
            stage_1: the leaf of the guest's own walk; None while its stage 1 is off.
            stage_2: the leaf of the hypervisor's walk; None without a second stage.
            sources: what else decides, as far as it is known.

        Raises:
            EncodingError: a type is reserved.
        """

    def hardware_report(
        self,
        fmt: Format,
        fault: Refusal,
        access: Access,
        gva: int | None,
        gpa: int,
        allowed: int,
        controls: int | None = None,
        instruction: int | None = None,
    ) -> dict[str, int]:
        """The registers in which hardware reports to the hypervisor that stage 2 refused an access, by their names in
        the manual; `stage2 explain fault` takes them as they are.

        Args:
            fmt: the stage-2 format.
            fault: what stage 2 says.
            access: what the guest's instruction attempted, also when stage 2 refused an access to a stage-1 table on
                its behalf.
            gva: the guest's own address, None when there is none.
            gpa: the address that stage 2 was asked for; of the table's entry when it refused an access to a table.
            allowed: what stage 2 allows there, privileged accesses in bits 0-2 and user accesses in bits 3-5 as in
                `Mapped.permissions`; 0 where it has no mapping.
            controls: of the stage-2 regime; None for the format's own.
            instruction: the word of the guest's load or store, None where it is not known; some hardware tells of it.

        Raises:
            EncodingError: no hardware reports such a fault.
        """

    def owed(self, fmt: Format, context: Context, changes: Sequence[Change], controls: int) -> tuple[Operation, ...]:
        """The operations that changes of a table owe, in the order in which they must be done.

        Args:
            fmt: the table's format.
            context: whose translations it makes.
            changes: what was done to it.
            controls: the regime's, which tell Arm's EL2 from EL1.
        """

    def retire(self, fmt: Format, context: Context) -> tuple[Operation, ...]:
        """What is owed before a table's frames, and what it mapped, go to somebody else: everything of its
        identifier."""

    def roll_over(self, fmt: Format) -> tuple[Operation, ...]:
        """What every CPU owes when identifiers are given out anew: everything of every identifier."""

    def first_entry(self, fmt: Format, identifier: int) -> tuple[Operation, ...]:
        """What a CPU owes, by itself, before it first runs a VM with this identifier since identifiers started
        again."""


@cache
def families() -> Mapping[str, Family]:
    """Every folder beside this file: a family, by its name."""
    folder = __package__ or ""
    paths = import_module(folder).__path__
    return {
        module.name: import_module(f"{folder}.{module.name}").FAMILY
        for module in pkgutil.iter_modules(paths)
        if module.ispkg
    }


def family_of(fmt: Format) -> Family:
    """The family that a format belongs to."""
    return families()[fmt.family]


def family_for(arch: str) -> Family:
    """The family of an architecture.

    Raises:
        EncodingError: none is.
    """
    for family in families().values():
        if family.arch == arch:
            return family
    raise EncodingError(f"no format is of {arch!r}: there are {', '.join(f.arch for f in families().values())}")
