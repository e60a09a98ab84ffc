"""What a CPU has, as data: the record, and how people change one on the command line.

Nothing here knows a table or a register: each family of `formats` maps a processor to its controls (`processors`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..errors import ConfigError

WIDEST_PHYSICAL_ADDRESS = 56
"""Of any architecture here (RISC-V's)."""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a processor may have.

    Args:
        meaning: what is so on a processor that has it, in one sentence.
        manual: where it is specified, and how software finds it.
        shown_to_guests: the Unicorn engine behaves so whatever the processor, or can be told to.
    """

    meaning: str
    manual: str
    shown_to_guests: bool = True


@dataclass(frozen=True, slots=True)
class Number:
    """A number that processors of an architecture have.

    Args:
        meaning: what it counts, in a few words, with its unit.
        least, most: what it may be.
        manual: where it is specified, and how software finds it.
    """

    meaning: str
    least: int
    most: int
    manual: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What may be said of a processor of one architecture.

    Args:
        arch: "x86_64", "aarch64" or "riscv64".
        features: by name.
        numbers: by name; `pa` is everywhere.
    """

    arch: str
    features: Mapping[str, Feature]
    numbers: Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor, as far as translation goes.

    Args:
        name: `max`, `cortex-a72`, `cortex-a72,pa=40`.
        parts: what can be said of processors of its architecture.
        vendor: "intel", "amd", "arm", or whoever made it.
        features: names of the features that it has.
        numbers: `pa` (bits of a physical address) and the others of its architecture.
        source: where these facts are from.

    Raises:
        ConfigError: a feature or number that the architecture does not have, or one out of range.
    """

    name: str
    parts: Parts
    vendor: str
    features: frozenset[str]
    numbers: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        for feature in self.features:
            self._require_known(feature, self.parts.features)
        for name, value in self.numbers.items():
            self._require_known(name, self.parts.numbers)
            number = self.parts.numbers[name]
            if not number.least <= value <= number.most:
                raise ConfigError(
                    f"{self.name}: {name}={value} is out of range: {number.meaning}, {number.least} to {number.most}"
                )

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self.numbers.items())
        return f"Processor({self.name!r}, {self.arch}, {len(self.features)} features, {numbers})"

    @property
    def arch(self) -> str:
        """Its architecture as files name it."""
        return self.parts.arch

    @property
    def pa_bits(self) -> int:
        """Bits of a physical address."""
        return self.numbers["pa"]

    def has(self, feature: str) -> bool:
        """Whether it has a feature of its architecture.

        Raises:
            ConfigError: the architecture has no such feature.
        """
        self._require_known(feature, self.parts.features)
        return feature in self.features

    def changed(self, changes: str) -> Processor:
        """This processor with some parts changed.

        Args:
            changes: separated by commas: `pa=40`, `+lpa2`, `-lpa2`, `lpa2=on`, `lpa2=off`, `lpa2`.

        Raises:
            ConfigError: what is wrong with which of them.
        """
        features, numbers = set(self.features), dict(self.numbers)
        for change in (part.strip() for part in changes.split(",")):
            name, equals, value = change.lstrip("+-").partition("=")
            if name in self.parts.numbers:
                if not equals or change[0] in "+-" or not value.isascii() or not value.isdigit() or len(value) > 6:
                    raise ConfigError(f"{self.name}: {change!r} needs a number: {name}={self.numbers[name]}")
                numbers[name] = int(value)
                continue
            self._require_known(name, {**self.parts.features, **self.parts.numbers}, change)
            if equals and (value not in ("on", "off") or change[0] in "+-"):
                raise ConfigError(f"{self.name}: {change!r}: write {name}=on or {name}=off")
            if value == "off" or change[0] == "-":
                features.discard(name)
            else:
                features.add(name)
        return replace(self, name=f"{self.name},{changes}", features=frozenset(features), numbers=numbers)

    def _require_known(self, name: str, known: Mapping[str, object], shown: str | None = None) -> None:
        if name in known:
            return
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(
            f"{self.name}: {shown or name} is no part of a processor of {self.arch}{hint}: there are {', '.join(known)}"
        )
