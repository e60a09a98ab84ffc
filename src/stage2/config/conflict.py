"""Declarations that cannot all hold, as errors that say who is concerned; a planner raises them, a checker collects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..address import Range
from ..errors import ConfigError
from ..place import Place, Rewrite


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody who wants something.

    Args:
        name: what it is called, with its VM where there are several.
        place: where it is declared.
        span: its addresses; None where it is not about addresses.
        space: what they are addresses of: "GPA", "HPA".
    """

    name: str
    place: Place
    span: Range | None = None
    space: str = "GPA"


class ConflictError(ConfigError):
    """Two declarations that contradict each other, or one that cannot hold by itself.

    Args:
        kind: which rule is broken, such as "overlap"; each names a finding of `check`.
        problem: the whole sentence.
        claims: who is concerned; the error stands at the first one's place.
        shared: the addresses that two of them want.
        rewrite: what would be right, where one value is wrong.
    """

    def __init__(
        self,
        kind: str,
        problem: str,
        claims: tuple[Claim, ...],
        shared: Range | None = None,
        rewrite: Rewrite | None = None,
    ) -> None:
        place = claims[0].place
        self.kind, self.claims, self.shared, self.rewrite = kind, claims, shared, rewrite
        if place.likely:
            problem += f" ({place.likely})"
        super().__init__(problem, file=place.file, line=place.line, key=place.key or None)


Refuse = Callable[[ConfigError], None]
"""What a planner does with an error that leaves it able to go on."""


def raise_it(error: ConfigError) -> None:
    """End at the first error; the other choice is to collect them (`list.append`)."""
    raise error
