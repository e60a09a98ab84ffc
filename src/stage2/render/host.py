"""What is said of a host that nobody described."""

from __future__ import annotations

from ..config.platform import PlatformConfig
from .plain import about


def assumed_host(platform: PlatformConfig) -> str | None:
    """One sentence on the host's memory where no platform file gave it; None where one did."""
    if platform.file is not None:
        return None
    spans = ", ".join(f"{span} ({about(span.size)})" for span in platform.memory)
    return f"No host was given: RAM at HPA {spans} was assumed, and HPAs are of that; --platform names a real host."
