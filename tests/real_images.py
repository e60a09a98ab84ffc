"""Real hypervisors' images, for tests that look at them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stage2.errors import HostToolError
from stage2.images.hypervisors import fetch, fetched


def real_image(release: str, pattern: str) -> Path:
    """An image of a release: CI fetches it, a user's machine skips the test unless it was fetched before.

    Args:
        release: `hypervisors-12`.
        pattern: of the file's name, which may hold a version.
    """
    try:
        found = fetched(release)
    except HostToolError as error:
        if not os.environ.get("CI"):
            pytest.skip(str(error))
        found = fetch(release)
    (path,) = [path for path in found.files if path.match(pattern)]
    return path
