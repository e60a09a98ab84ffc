"""Colours as WCAG 2.2 compares them, each as #rrggbb."""

from __future__ import annotations


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, ground: str, share: float) -> str:
    """A colour that lies on a ground and lets some of it through."""
    both = zip(_parts(colour), _parts(ground), strict=True)
    return "#" + "".join(f"{round(share * upper + (1 - share) * lower):02x}" for upper, lower in both)


def _parts(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


def _luminance(colour: str) -> float:
    parts = [part / 255 for part in _parts(colour)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
