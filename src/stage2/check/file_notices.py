"""What readers and planners of VM files noticed, as findings: the rules S2901 and S2801."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Rule, Severity, found_at
from .setup import Setup

NOTICE = Rule(
    "S2901", Severity.NOTE, "a VM file says something that may not be meant",
    "AxVisor skips it, reads it otherwise than it looks, or does more than the file says.",
)  # fmt: skip
CPU_LIST = Rule(
    "S2801", Severity.WARNING, "a list of host CPUs has another length than the VM has vCPUs",
    "AxVisor goes by position: vCPUs without an entry keep a default, entries without a vCPU are ignored.",
)  # fmt: skip
_KINDS = {"": NOTICE, "cpu-list": CPU_LIST}
RULES = tuple(_KINDS.values())


def check_notices(setup: Setup) -> Iterator[Finding]:
    """Every notice of the readers and planners."""
    planned = {vm.file: vm for vm in setup.vms}
    notices = [notice for file in setup.files for notice in planned.get(file.file, file).notices]
    for notice in (*notices, *(setup.platform.notices if setup.platform is not None else ())):
        key = f"{notice.place.key}: " if notice.place.key else ""
        yield found_at(_KINDS[notice.kind], f"{key}{notice.text}", notice.place)
