"""Where the nodes of a device tree stand in its source, as far as the source shows it.

Nodes that are written within their parents are found. What is added from elsewhere (`&label { }`, includes) is not.
"""

from __future__ import annotations

import re

from ..config.regular_file import read_regular
from ..images.fdt import MAX_SIZE, is_source

# Comments and strings go first, for they may hold braces; every quantifier is possessive, so the scan is linear.
_TOKEN = re.compile(
    r'//[^\n]*+|/\*(?:[^*]++|\*(?!/))*+\*/|"(?:[^"\\]++|\\.)*+"|\n|[{};]'
    r"|(?:[A-Za-z_][A-Za-z0-9_]*+\s*+:\s*+)*+(/|[A-Za-z0-9,._+?#@-]++)(?=\s*+\{)"
)


def source_lines(file: str) -> dict[str, int]:
    """The line of every node that the source of a tree shows, by path; empty for a compiled tree.

    Args:
        file: the tree, which could be read before.
    """
    blob = read_regular(file, MAX_SIZE, "device tree")
    if not is_source(blob):
        return {}
    found: dict[str, int] = {}
    line, stack, name, at = 1, list[str | None](), "", 1
    for token in _TOKEN.finditer(blob.decode("utf-8", "replace")):
        text = token[0]
        if token[1] is not None:
            name, at = token[1], line + text[: token.start(1) - token.start()].count("\n")
        elif text == "{":
            above = stack[-1] if stack else ""
            path = None if not name or above is None else "" if name == "/" else f"{above}/{name}"
            if path is not None and (stack or name == "/"):
                found.setdefault(path or "/", at)
                stack.append(path)
            else:
                stack.append(None)
            name = ""
        elif text == "}" and stack:
            stack.pop()
        line += text.count("\n")
    return found
