"""What stays the same of a finding from one check to the next, though lines before it come and go."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial

from ..check.finding import Finding


def near_name(file: str) -> str:
    """A file by its path from the folder the command runs in, where it lies in there; by its whole path elsewhere."""
    whole = os.path.abspath(file)
    near = os.path.relpath(whole)
    return whole if near.split(os.sep)[0] == os.pardir else near


def fingerprints(findings: Sequence[Finding], lines: Callable[[str], Sequence[str]]) -> list[str]:
    """One for each finding, in their order, all different; made of what the lines say, not of their numbers.

    Args:
        findings: of one check.
        lines: the lines of a file.
    """
    words = cache(partial(_words, lines))
    met: Counter[str] = Counter()
    found = []
    for finding in findings:
        parts = [finding.code, *(words(place.file, place.line) for place in finding.locations)]
        if not finding.locations:
            parts.append(finding.message)
        whole = "\0".join(parts)
        met[whole] += 1
        again = f"\0{met[whole]}" if met[whole] > 1 else ""
        found.append(_digest(whole + again)[:32])
    return found


def _words(lines: Callable[[str], Sequence[str]], file: str, line: int | None) -> str:
    """A place without its numbers: the file, and what its line says, however it is indented."""
    if line is None:
        return near_name(file)
    known = lines(file)
    # Lines can be millions of characters long, and have thousands of findings.
    return f"{near_name(file)}\n{_digest(' '.join(known[line - 1].split()) if line <= len(known) else '')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
