"""What is printed as text, as a piece of HTML."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

_PREFORMATTED = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.2">{code}</pre>'


def preformatted(shown: RenderableType, width: int = 100) -> str:
    """Text with its colours; nothing of it is taken for HTML.

    Args:
        shown: what a command would print.
        width: columns.
    """
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(shown)
    return console.export_html(inline_styles=True, code_format=_PREFORMATTED)
