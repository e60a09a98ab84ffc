"""Table formats, a folder per family. `by_name` finds one; importing this imports no family's rules.

A folder is all that a family needs to be found: see `docs/adding-a-format.md`.
"""

from __future__ import annotations

import difflib

from ..errors import EncodingError
from .effective import EffectiveType, Leaf, TypeSources
from .family import Family, families, family_for, family_of
from .record import Field, Format
from .register import Register

__all__ = [
    "EffectiveType",
    "Family",
    "Field",
    "Format",
    "Leaf",
    "Register",
    "TypeSources",
    "by_name",
    "effective_type",
    "families",
    "family_for",
    "family_of",
    "names",
    "register_by_name",
    "registers",
]


def names() -> tuple[str, ...]:
    """The names of the formats that translate; of Arm's, the common ones."""
    return tuple(name for family in families().values() for name in family.names)


def by_name(name: str, *, stage: int | None = None) -> Format:
    """The format called `name`.

    Args:
        stage: which stage's names an error lists; None for all. A format of the other stage is found all the same.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    for family in families().values():
        found = family.by_name(name)
        if found is not None:
            return found
    known = [other for other in names() if stage is None or by_name(other).stage == stage]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    kind = "" if stage is None else f"stage-{stage} "
    raise EncodingError(f"no {kind}format is called {name!r}{hint}: there are {', '.join(known)}")


def registers() -> tuple[Register, ...]:
    """Every register that can be told in words, family by family."""
    return tuple(found for family in families().values() for found in family.registers())


def register_by_name(name: str) -> Register:
    """The register called `name`, or one of whose aliases it is; case does not matter.

    Raises:
        EncodingError: there is none; the text names the nearest.
    """
    known: list[str] = []
    for found in registers():
        spellings = [spelling.lower() for spelling in (found.name, *found.aliases)]
        if name.lower() in spellings:
            return found
        known += spellings
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise EncodingError(
        f"no register is called {name!r}{hint}: there are {', '.join(found.name for found in registers())}"
    )


def effective_type(stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources | None = None) -> EffectiveType:
    """The memory type that both stages together give an access; see `Family.effective_type`.

    Raises:
        EncodingError: a type is reserved, the leaves are of two families, or there is no leaf at all.
    """
    found = {leaf.format.family for leaf in (stage_1, stage_2) if leaf is not None}
    if len(found) != 1:
        raise EncodingError(
            f"leaves of {' and '.join(sorted(found))} do not combine" if found else "no leaf has a memory type"
        )
    return families()[found.pop()].effective_type(stage_1, stage_2, sources or TypeSources())
