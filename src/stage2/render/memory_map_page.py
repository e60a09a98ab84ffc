"""A map of a memory's tables as one HTML file: every range in a table that can be sorted, filtered and asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..address import format_size
from ..formats.outcome import EXECUTE, USER_SHIFT, WRITE
from ..inspect.mapping import MapPart, MapRange
from ..tables.result import permission_text
from .page_frame import framed, page_text, part
from .plain import counted, plain

_WX = WRITE | EXECUTE
MOST_ROWS, _PLAIN_ROWS = 100_000, 500
"""Limits: ranges that a page holds, and those of them that can be read without its script."""


def memory_map_page(
    held: MapPart, devices: npt.NDArray[np.bool_], source: str, roots: Sequence[str], left_out: int = 0
) -> str:
    """The whole file, as text without surrogates.

    Args:
        held: the ranges in order of their address; MOST_ROWS are taken.
        devices: which of them are memory of devices (`inspect.filters.devices_in`).
        source: the memory's name.
        roots: of the tables, a sentence each.
        left_out: ranges that there are besides `held`.
    """
    left_out += max(0, len(held) - MOST_ROWS)
    ranges = list(held.only(slice(None, MOST_ROWS)).told())
    both = held.first is not None and held.second is not None
    columns = ["GVA" if held.first is not None else "GPA", *(["GPA"] if both else []), "HPA"]
    told = f"{counted(len(ranges) + left_out, 'range')} of {'GVAs' if held.first is not None else 'GPAs'} mapped"
    if left_out:
        told += f"; the page holds the first {len(ranges):,} by address, and {left_out:,} are left out"
    few = islice(ranges, _PLAIN_ROWS)
    short = "" if len(ranges) <= _PLAIN_ROWS else f" Without its script the page shows the first {_PLAIN_ROWS}."
    sentences = "".join(f"<li>{page_text(one)}</li>" for one in roots)
    body = [
        '<a class="skip" href="#ranges">Skip to the ranges</a>',
        f"<header>\n<h1>Map of {page_text(source)}</h1>\n<p><strong>{told}.</strong>{short}</p>\n"
        f"<ul>{sentences}</ul>\n</header>\n<main>",
        _forms(columns),
        '<h2 id="ranges" tabindex="-1">Ranges</h2>\n<p id="shown" role="status" aria-live="polite" class="quiet"></p>',
        _pages(),
        _table(columns, few, both=both),
        f'</main>\n<footer class="quiet"><p>Made by stage2 {page_text(__version__)}. Letters before and after a slash: '
        "what privileged code and what user mode may do.</p></footer>",
        f'<script type="application/json" id="data">{_data(columns, ranges, devices.tolist(), both=both)}</script>',
    ]
    style, script = part("memory_map_page", "css"), part("memory_map_page", "js")
    return framed(f"Map of {source}. stage2 map", style, script, "\n".join(body))


def _forms(columns: Sequence[str]) -> str:
    """Hidden until the script makes them work."""
    return (
        '<form id="ask" hidden role="search" aria-label="Look an address up">\n'
        f'<div class="field"><label for="address">{columns[0]} to look up</label>'
        '<input type="search" id="address" name="address" placeholder="0x80000000" autocomplete="off" '
        'spellcheck="false"></div>\n<button type="submit">Look up</button>\n</form>\n'
        '<p id="answer" role="status" aria-live="polite" hidden></p>\n'
        '<form id="filter" hidden role="search" aria-label="Filter ranges">\n<fieldset><legend>Only</legend>'
        '<label><input type="checkbox" name="wx"> writable and executable</label>'
        '<label><input type="checkbox" name="user"> reached by user mode</label>'
        '<label><input type="checkbox" name="device"> device memory</label></fieldset>\n'
        '<div class="field"><label for="text">Addresses that contain</label>'
        '<input type="search" id="text" name="text" autocomplete="off" spellcheck="false"></div>\n'
        '<button type="reset">Show all ranges</button>\n</form>'
    )


def _pages() -> str:
    return (
        '<nav id="pages" hidden aria-label="Pages of ranges"><button type="button" id="first">First</button>'
        '<button type="button" id="previous">Previous</button><span id="page"></span>'
        '<button type="button" id="next">Next</button><button type="button" id="last">Last</button></nav>'
    )


def _table(columns: Sequence[str], ranges: Iterator[MapRange], *, both: bool) -> str:
    numbers = ("size", "leaf")
    heads = [*columns, "size", "allows", "leaf", "memory type"]
    top = "".join(f'<th scope="col"{_kind(name in numbers)}>{name}</th>' for name in heads)
    rows = "\n".join(_row(one, both=both) for one in ranges)
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Ranges">\n<table>\n'
        "<caption>Ranges, from the first to the last address; up and down arrows go from row to row</caption>\n"
        f'<thead><tr>{top}</tr></thead>\n<tbody id="rows">\n{rows}\n</tbody>\n</table>\n</div>'
    )


def _kind(number: bool) -> str:
    return ' class="number"' if number else ""


def _row(one: MapRange, *, both: bool) -> str:
    outputs = [one.gpa, one.hpa] if both else [one.hpa]
    cells = "".join(f'<td class="address">{"nothing" if at is None else f"{at:#x}"}</td>' for at in outputs)
    return (
        f'<tr><th scope="row" class="address">{one.start:#x}-{one.start + one.size - 1:#x}</th>{cells}'
        f'<td class="number">{format_size(one.size)}</td><td class="address">{one.allows}</td>'
        f'<td class="number">{format_size(one.leaf)}</td><td>{page_text(one.memory_type or "")}</td></tr>'
    )


def _data(columns: Sequence[str], ranges: Sequence[MapRange], devices: Sequence[bool], *, both: bool) -> str:
    """The rows for the script: numbers as hexadecimal text, and kinds of leaves as numbers of a list."""
    kinds: dict[tuple[int, int, str | None], int] = {}
    rows = []
    for one, device in zip(ranges, devices, strict=False):
        kind = kinds.setdefault((one.permissions, one.leaf, one.memory_type), len(kinds))
        middle = [f"{one.gpa:x}"] if both else []
        rows.append(
            [f"{one.start:x}", *middle, None if one.hpa is None else f"{one.hpa:x}", f"{one.size:x}", kind, int(device)]
        )
    told = [
        {
            "allows": permission_text(permissions), "leaf": leaf, "sized": format_size(leaf),
            "type": plain(memory_type or ""), "user": bool(permissions >> USER_SHIFT & 7),
            "wx": any(side & _WX == _WX for side in (permissions & 7, permissions >> USER_SHIFT & 7)),
        }
        for permissions, leaf, memory_type in kinds
    ]  # fmt: skip
    data = {"columns": columns, "kinds": told, "rows": rows}
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
