"""The registers of a CPU as a list: what is saved of it, and put back, by the names of its architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...errors import SnapshotError


def _any(_value: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Register:
    """One register.

    Args:
        name: in lower case, as the architecture's manual has it.
        get, put: its value.
        bits: its width.
        allows: whether a value is one that a guest of this engine may have there.
    """

    name: str
    get: Callable[[], int]
    put: Callable[[int], None]
    bits: int = 64
    allows: Callable[[int], bool] = _any


def values_of(registers: Iterable[Register]) -> dict[str, int]:
    """All values by name."""
    return {register.name: register.get() for register in registers}


def require_values(registers: Sequence[Register], values: Mapping[str, int]) -> None:
    """Make sure that values are what these registers can hold, before any is put.

    Raises:
        SnapshotError: they are not.
    """
    names = {register.name for register in registers}
    if names != values.keys():
        odd = min(names ^ values.keys())
        raise SnapshotError(f"register {odd} is {'not in the snapshot' if odd in names else 'none of this CPU'}")
    for register in registers:
        value = values[register.name]
        if not 0 <= value < 1 << register.bits or not register.allows(value):
            raise SnapshotError(f"register {register.name} cannot be {value:#x} here")


def put_values(registers: Iterable[Register], values: Mapping[str, int]) -> None:
    """Put all values, in the order of the registers."""
    for register in registers:
        register.put(values[register.name])
