"""Where things are kept between runs: fetched ones, compiled ones, locks."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(kind: str) -> Path:
    """Where things of a kind are kept: `stage2/KIND` in the user's cache folder, or `KIND` under $STAGE2_CACHE."""
    own = os.environ.get("STAGE2_CACHE")
    if own:
        return Path(own) / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stage2" / kind
