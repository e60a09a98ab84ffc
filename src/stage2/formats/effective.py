"""The memory type that both stages together give an access."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EffectiveType:
    """What an access gets.

    Args:
        name: the manual's short name: "WB", "Device-nGnRE", "NC".
        text: one sentence on how it came about.
        manual: the section with the rule.
    """

    name: str
    text: str
    manual: str
