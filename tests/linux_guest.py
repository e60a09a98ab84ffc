"""The fetched Linux guest, for tests that boot it."""

from __future__ import annotations

import os

import pytest

from stage2.errors import ImageError
from stage2.images.fetch import fetch, fetched

GUEST = "linux-riscv64"


def require_linux(guest: str = GUEST) -> None:
    """Have a guest: CI fetches it, a user's machine skips the test unless it was fetched before."""
    try:
        fetched(guest)
    except ImageError as error:
        if not os.environ.get("CI"):
            pytest.skip(str(error))
        fetch(guest)
