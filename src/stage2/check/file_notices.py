"""What readers of VM files noticed, as findings: the rule S2901."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Rule, Severity, found_at
from .setup import Setup

NOTICE = Rule(
    "S2901", Severity.NOTE, "a VM file says something that may not be meant",
    "AxVisor skips it, reads it otherwise than it looks, or does more than the file says.",
)  # fmt: skip
RULES = (NOTICE,)


def check_notices(setup: Setup) -> Iterator[Finding]:
    """Every notice of the readers and planners."""
    planned = {vm.file: vm for vm in setup.vms}
    for file in setup.files:
        for notice in planned.get(file.file, file).notices:
            key = f"{notice.place.key}: " if notice.place.key else ""
            yield found_at(NOTICE, f"{key}{notice.text}", notice.place)
