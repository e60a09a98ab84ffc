"""Editing TOML text so that its comments, order and spelling stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import tomlkit
from tomlkit.items import Array, Comment, Item, Table, Whitespace

Edit = Callable[[str, Item], tuple[str, Item] | None]
"""What becomes of a key and its value; None takes both out."""


def edited(table: Table | None, edit: Edit, more: Mapping[str, Item]) -> Table:
    """A table with every value as `edit` makes it; one that goes takes the comments right above it along.

    Args:
        table: as it was; None for one that was not there.
        edit: what becomes of each key.
        more: what is added behind the last key, before what ends the table, unless a key is there already.
    """
    kept: list[tuple[str | None, Item]] = []
    above: list[Item] = []
    end = 0
    for key, item in [] if table is None else table.value.body:
        if key is None and isinstance(item, Comment):
            above.append(item)
            continue
        made = None if key is None else edit(key.key, item)
        if key is None or made is not None:
            kept += [(None, comment) for comment in above]
            kept.append((None, item) if made is None else made)
            end = len(kept) if made is not None else end
        above.clear()
    kept += [(None, comment) for comment in above]
    names = {name for name, _ in kept}
    kept[end:end] = [(name, item) for name, item in more.items() if name not in names]
    new = tomlkit.table()
    for name, item in kept:
        if name is not None:
            new.append(name, item)
        elif isinstance(item, Comment | Whitespace):
            new.add(item)
    if table is None:
        return new
    return Table(new.value, table.trivia, table.is_aot_element(), name=table.name, display_name=table.display_name)


def like(value: str, item: Item) -> Item:
    """A value with the comment behind the one that it replaces."""
    made = tomlkit.item(value)
    made.trivia.comment, made.trivia.comment_ws = item.trivia.comment, item.trivia.comment_ws
    return made


def node_list(paths: Iterable[str]) -> Array:
    """`[{ path = "..." }, ...]`, each on its own line where there are several."""
    made = tomlkit.array()
    for path in paths:
        entry = tomlkit.inline_table()
        entry.append("path", path)
        made.append(entry)
    if len(made) > 1:
        made.multiline(True)
    return made


def without_generation(text: str) -> str:
    """Our tables without `[stage2] generation`, which spoke of the old file."""
    beside = tomlkit.parse(text)
    stage2 = beside.get("stage2")
    if isinstance(stage2, Table):
        stage2 = edited(stage2, lambda key, item: None if key == "generation" else (key, item), {})
        if len(stage2):
            beside["stage2"] = stage2
        else:
            del beside["stage2"]
    return beside.as_string().strip() + "\n" if len(beside) else ""


def with_headers_of(text: str, old: str) -> str:
    """Text without the blank line that is put above a table's header, where the old text has a comment there."""
    for header in re.findall(r"^#[^\n]*\n(\[[^\n]*)$", old, re.MULTILINE):
        text = re.sub(rf"^(#[^\n]*\n)\n({re.escape(header)})$", r"\1\2", text, flags=re.MULTILINE)
    return text
