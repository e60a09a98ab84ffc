"""What all oracles share: which emulator they are, and how it is called."""

from __future__ import annotations

from typing import ClassVar

from ...machines.emulator import Emulator, major


class Emulated:
    """An oracle that an emulator runs.

    Args:
        generation: the emulator's major version; None for the machine's own, whatever it is.
    """

    kind: ClassVar[str]
    """Its name without a generation, under which deviations know it: `qemu-aarch64`."""
    maker: ClassVar[str]
    """As `machines.emulator.Emulator` has it."""
    program: ClassVar[tuple[str, str]]
    """The emulator's program, and Debian's package that has it."""

    def __init__(self, generation: int | None = None) -> None:
        self.emulator = Emulator(self.maker, generation)
        self.name = self.kind if generation is None else self.kind.replace(self.maker, f"{self.maker}-{generation}", 1)

    def version(self) -> str:
        """Of the emulator.

        Raises:
            HostToolError: it is not there; the text says what to install or to fetch.
        """
        return self.emulator.program(*self.program).version

    @property
    def generation(self) -> int:
        """The emulator's major version."""
        return major(self.version())
