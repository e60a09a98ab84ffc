"""RISC-V: Sv39, Sv48 and Sv57 for stage 1, Sv39x4, Sv48x4 and Sv57x4 for stage 2, and Bare.

The RISC-V Instruction Set Manual, Volume II: Privileged Architecture; chapters "Supervisor-Level ISA" and
"Hypervisor" Extension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..record import Format

if TYPE_CHECKING:
    from ...flags import Access
    from ...processor import Processor
    from ..change import Change
    from ..effective import EffectiveType, Leaf, TypeSources
    from ..family import Family
    from ..invalidation import Context, Operation
    from ..register import Register
    from ..selected import Registers, SelectedRoot
    from ..syndrome import Refusal


class RiscvFamily:
    """Sv39, Sv48 and Sv57 for stage 1, Sv39x4, Sv48x4 and Sv57x4 for stage 2, and Bare."""

    name = "riscv"
    arch = "riscv64"
    names = ("sv39", "sv48", "sv57", "sv39x4", "sv48x4", "sv57x4")

    def by_name(self, name: str) -> Format | None:
        if name not in self.names:
            return None
        from .formats import FORMATS

        return next(record for record in FORMATS if record.name == name)

    def manual_level(self, level: int) -> int | None:
        return None

    def registers(self) -> tuple[Register, ...]:
        from .registers import REGISTERS

        return REGISTERS

    def controls(self, fmt: Format, processor: Processor) -> int:
        from .processors import controls

        return controls(fmt, processor)

    def require(self, fmt: Format, processor: Processor, controls: int) -> None:
        from .processors import require

        require(fmt, processor, controls)

    def output_bits(self, fmt: Format, processor: Processor) -> int:
        from .processors import output_bits

        return output_bits(fmt, processor)

    def stage_2_registers(self, fmt: Format, root: int, controls: int, identifier: int) -> dict[str, int]:
        from .registers import stage_2_registers

        return stage_2_registers(fmt, root, controls, identifier)

    def roots(self, registers: Registers) -> tuple[tuple[SelectedRoot, ...], tuple[str, ...]]:
        from .selected import roots

        return roots(registers)

    def searched(self) -> tuple[tuple[Format, int], ...]:
        from .selected import searched

        return searched()

    def own_controls(self, fmt: Format, processor: Processor | None, *, both: bool) -> int:
        return fmt.default_controls if processor is None else self.controls(fmt, processor)

    def own_registers(self, halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
        from .registers import own_registers

        return own_registers(halves)

    def memory_type(self, fmt: Format, attributes: int, controls: int) -> tuple[str | None, str]:
        from .memory_types import memory_type

        return memory_type(fmt, attributes, controls)

    def effective_type(self, stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources) -> EffectiveType:
        from .effective import effective_type

        return effective_type(stage_1, stage_2, sources)

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
        from .syndromes import hardware_report

        return hardware_report(fmt, fault, access, gva, gpa, allowed)

    def owed(self, fmt: Format, context: Context, changes: Sequence[Change], controls: int) -> tuple[Operation, ...]:
        from .invalidation import owed

        return owed(fmt, context, changes, controls)

    def retire(self, fmt: Format, context: Context) -> tuple[Operation, ...]:
        from .invalidation import retire

        return retire(fmt, context)

    def roll_over(self, fmt: Format) -> tuple[Operation, ...]:
        from .invalidation import roll_over

        return roll_over(fmt)

    def first_entry(self, fmt: Format, identifier: int) -> tuple[Operation, ...]:
        from .invalidation import first_entry

        return first_entry(fmt, identifier)


FAMILY: Family = RiscvFamily()
