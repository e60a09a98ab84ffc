"""Notices on standard error: what a user should know of a file that is not wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..render.plain import plain

if TYPE_CHECKING:
    from ..config.document import Notice

MAX_NOTICES = 20
"""Limit: notices that are printed one by one."""


def print_notices(notices: Sequence[Notice]) -> None:
    """Print notices, one a line, and how many there are beyond MAX_NOTICES."""
    for notice in notices[:MAX_NOTICES]:
        print(f"stage2: notice: {plain(str(notice))}", file=sys.stderr)
    if len(notices) > MAX_NOTICES:
        more = len(notices) - MAX_NOTICES
        print(f"stage2: notice: and {more} more (stage2 show lists them all)", file=sys.stderr)
