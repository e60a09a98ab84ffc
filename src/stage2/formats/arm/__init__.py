"""Arm: AArch64 stage 1 and stage 2 (Arm ARM DDI 0487, chapter D8)."""

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


class ArmFamily:
    """Both stages with granules of 4, 16 and 64 KiB. Any combination that the architecture allows has a name."""

    name = "arm"
    arch = "aarch64"
    names = (
        "arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-48-high", "arm-s1-4k-52-lpa2", "arm-s1-16k-47", "arm-s1-64k-48",
        "arm-s2-4k-40", "arm-s2-4k-40-4level", "arm-s2-4k-44", "arm-s2-4k-48", "arm-s2-4k-52-lpa2",
        "arm-s2-16k-40", "arm-s2-16k-48", "arm-s2-64k-40", "arm-s2-64k-52",
    )  # fmt: skip

    def by_name(self, name: str) -> Format | None:
        if not name.startswith("arm-"):
            return None
        from .formats import by_name

        return by_name(name)

    def manual_level(self, level: int) -> int | None:
        from .fault_status import ARM_LAST_LEVEL

        return ARM_LAST_LEVEL - level

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
        from .formats import searched

        return searched()

    def own_controls(self, fmt: Format, processor: Processor | None, *, both: bool) -> int:
        from .own import own_controls

        return own_controls(fmt, processor, both=both)

    def own_registers(self, halves: Sequence[tuple[Format, int, int]]) -> dict[str, int]:
        from .own import own_registers

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

        return hardware_report(fmt, fault, access, gva, gpa, allowed, instruction)

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


FAMILY: Family = ArmFamily()
