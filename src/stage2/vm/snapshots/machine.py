"""What a machine, of whatever engine, does so that its VM can be saved: a small protocol, and its state as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MachineState:
    """All that a machine holds beside memory and the devices on the VM's bus.

    Args:
        engine: name of the engine; another one's machine does not take it.
        nanos: the guest's clock.
        started: whether the guest was entered; one that was not begins at its entry.
        off: what the guest asked for, where it has powered off.
        cpus: each CPU's registers by name.
        more: what else the engine keeps, as JSON has it: timers, waiting CPUs, devices of its own.
    """

    engine: str
    nanos: int
    started: bool
    off: str | None
    cpus: tuple[Mapping[str, int], ...]
    more: Mapping[str, Any] = field(default_factory=dict)


class SavedMachine(Protocol):
    """A machine whose state can be had and put back. All but `at_rest` are called at rest."""

    ENGINE: str

    def at_rest(self, work: Callable[[], T]) -> T:
        """Do `work` while no CPU of the machine runs and no exit of one is half dealt with.

        Callable from any thread that holds no lock of the VM's.

        Returns:
            What `work` returns; what it raises is raised.
        """

    def when(self, nanos: int, work: Callable[[], object]) -> None:
        """Let `work` be done at rest once the guest's clock has reached a time; at once where it has."""

    @property
    def unsaved(self) -> str | None:
        """Something with state that cannot be had, such as a passed-through controller, named; None for nothing."""

    def save(self) -> MachineState:
        """Its state."""

    def require(self, state: MachineState) -> None:
        """Make sure that `load` can put a state back.

        Raises:
            SnapshotError: it cannot; nothing changed.
        """

    def load(self, state: MachineState) -> None:
        """Put a state back that `require` accepts, and forget all that was derived from memory and tables."""


@runtime_checkable
class SavedDevice(Protocol):
    """A device on a bus whose state can be had and put back."""

    def save(self) -> dict[str, Any]:
        """Its state, as JSON has it."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Put a state back.

        Raises:
            ValueError, KeyError, TypeError: it is none of this device's; nothing changed.
        """
