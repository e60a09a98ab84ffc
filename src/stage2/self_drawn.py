"""Things that draw themselves in notebooks: IPython and Jupyter ask what a cell ends with for these methods.

Who draws is asked for by name and only then, so that the rooms of these things know of no renderer and load none.
"""

from __future__ import annotations

from importlib import import_module

_DRAWER = "stage2.render.picture.drawn"


class SelfDrawn:
    """Has a picture of itself as SVG."""

    __slots__ = ()

    def _repr_svg_(self) -> str | None:
        return _drawn("svg_of", self)


class SelfTold:
    """Tells itself as HTML, with a picture in it."""

    __slots__ = ()

    def _repr_html_(self) -> str | None:
        return _drawn("html_of", self)


def _drawn(how: str, thing: object) -> str | None:
    """A picture; None where there is none, and the notebook shows what a prompt would."""
    try:
        found: str | None = getattr(import_module(_DRAWER), how)(thing)
    except Exception:  # noqa: BLE001  # whatever is wrong with it (it may be closed), a cell that shows it must not fail
        return None
    return found
