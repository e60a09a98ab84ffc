"""What all oracles share: which emulator they are, and how it is called."""

from __future__ import annotations

from ...machines.emulator import Emulator, major


class Emulated:
    """An oracle that an emulator runs.

    Args:
        generation: the emulator's major version; None for the machine's own, whatever it is.
    """

    kind: str
    """Its name without a generation, under which deviations know it: `qemu-aarch64`."""
    maker: str
    """As `machines.emulator.Emulator` has it."""
    program: tuple[str, str]
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

    def is_own(self) -> bool:
        """Whether the emulator is the machine's own: no generation was asked for, or the own is of it."""
        return self.emulator.own(self.program[0]) is not None

    @property
    def generation(self) -> int:
        """The emulator's major version; 0 where there is none."""
        if self.emulator.generation is not None:
            return self.emulator.generation
        own = self.emulator.own(self.program[0])
        return 0 if own is None else major(own.version)
