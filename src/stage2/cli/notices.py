"""Notices on standard error: what a user should know of a file that is not wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..render.plain import plain

if TYPE_CHECKING:
    from ..check.finding import Finding
    from ..config.document import Notice
    from ..place import Place

MAX_NOTICES = 20
"""Limit: notices, or findings, that are printed one by one."""


def print_notices(notices: Sequence[Notice]) -> None:
    """Print notices, one a line, and how many there are beyond MAX_NOTICES."""
    for notice in notices[:MAX_NOTICES]:
        print(f"stage2: notice: {plain(str(notice))}", file=sys.stderr)
    if len(notices) > MAX_NOTICES:
        more = len(notices) - MAX_NOTICES
        print(f"stage2: notice: and {more} more (stage2 show lists them all)", file=sys.stderr)


def print_findings(findings: Sequence[Finding], place: Place) -> None:
    """Print findings, one a line, errors first, and how many there are beyond MAX_NOTICES; the first error is raised.

    Args:
        findings: what was found.
        place: of the VM, for an error that stands nowhere.

    Raises:
        ImageError: one is an error.
    """
    from ..check.finding import Severity
    from ..errors import ImageError

    errors = [finding for finding in findings if finding.level is Severity.ERROR]
    others = [*errors[1:], *(finding for finding in findings if finding.level is not Severity.ERROR)]
    for finding in others[:MAX_NOTICES]:
        where = f"{finding.locations[0]}: " if finding.locations else ""
        print(f"stage2: {plain(where + str(finding))}", file=sys.stderr)
    if len(others) > MAX_NOTICES:
        print(f"stage2: and {len(others) - MAX_NOTICES} more findings (stage2 show lists them all)", file=sys.stderr)
    if errors:
        found = errors[0]
        at = found.locations[0] if found.locations else None
        text = str(found).removeprefix("error ")
        raise ImageError(text, file=at.file, line=at.line) if at is not None else place.error(text, ImageError)
