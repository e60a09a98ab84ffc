"""The table of known deviations: what emulators do otherwise than the manuals. Anything else is our bug."""

from __future__ import annotations

from .deviation import Deviation
from .known import bochs_ept, qemu_aarch64, qemu_riscv64, qemu_x86_svm

DEVIATIONS: tuple[Deviation, ...] = (
    *qemu_aarch64.DEVIATIONS,
    *qemu_riscv64.DEVIATIONS,
    *qemu_x86_svm.DEVIATIONS,
    *bochs_ept.DEVIATIONS,
)


def of_oracle(oracle: str, version: str) -> tuple[Deviation, ...]:
    """The deviations that a version of an emulator has."""
    return tuple(found for found in DEVIATIONS if found.oracle == oracle and version in found.versions)
