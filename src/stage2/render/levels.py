"""Levels in words: counted from the smallest page, with the manual's own number beside it where that differs."""

from __future__ import annotations

from ..formats import families, family_of
from ..formats.record import Format

LEGEND = "Levels count from 0, the smallest page; Arm's own numbers, where that is level 3, stand in parentheses."


def level_text(fmt: Format | None, level: int) -> str:
    """`level 1`, and `level 1 (Arm's 2)` of Arm's formats; None is a format that is not known."""
    manual = None if fmt is None else family_of(fmt).manual_level(level)
    return f"level {level}" if manual is None else f"level {level} (Arm's {manual})"


def level_legend(fmt: Format | None) -> str | None:
    """What the numbers of `level_text` are, to be said once; None where there is only one."""
    return None if fmt is None or family_of(fmt).manual_level(0) is None else LEGEND


def level_key(fmt: Format | None) -> str | None:
    """What Arm calls the levels of a text that has only ours; None where there is only one number."""
    manual = None if fmt is None else family_of(fmt).manual_level(0)
    return (
        None
        if manual is None
        else f"L0 is the level of the smallest page; Arm calls it level {manual}, L1 level {manual - 1}"
    )


def reported_level(arch: str, level: int) -> str:
    """The level of a fault that an architecture's registers report: `1 (0 is the smallest page)`, with Arm's number."""
    manuals = [family.manual_level(level) for family in families().values() if family.arch == arch]
    beside = f"Arm's {manuals[0]}; " if manuals and manuals[0] is not None else ""
    return f"{level} ({beside}0 is the smallest page)"
