"""Which processor the tables of a VM are for: the one that was named, else none in particular."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, EncodingError
from ..formats import family_of
from ..formats.record import Format
from ..place import Place
from ..processor import Processor, architectures, named, parse

OPTION = "--cpu"


@dataclass(frozen=True, slots=True)
class NamedCpu:
    """A processor that a user asked for.

    Args:
        text: `cortex-a72,pa=40`.
        place: of the text in a VM file; None for the command line.
    """

    text: str
    place: Place | None = None

    def on(self, arch: str) -> Processor:
        """The processor.

        Args:
            arch: the architecture that it must be of.

        Raises:
            ConfigError: there is none of that name, it is of another architecture, or a change means nothing for it.
        """
        try:
            return parse(self.text, arch)
        except ConfigError as error:
            raise self.error(str(error)) from None

    def require(self, arch: str | None) -> None:
        """Refuse a processor that there is not.

        Args:
            arch: the architecture that it must be of; None for any.

        Raises:
            ConfigError: as `on`.
        """
        name = self.text.strip().partition(",")[0]
        self.on(arch or next((known for known in architectures() if name in named(known)), architectures()[0]))

    def controls(self, fmt: Format) -> int:
        """The control bits of a regime of this format on it.

        Raises:
            ConfigError: it does not have such tables.
        """
        family = family_of(fmt)
        try:
            return family.controls(fmt, self.on(family.arch))
        except EncodingError as error:
            raise self.error(str(error)) from None

    def error(self, problem: str) -> ConfigError:
        """A ConfigError that says where the processor is named."""
        if self.place is None:
            return ConfigError(f"{OPTION} {problem}")
        return self.place.error(problem)
