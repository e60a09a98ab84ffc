"""What user mode reaches of the kernel's half, and what supervisor mode may do with its pages: S3003 and S3004."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...check.finding import Finding, Severity
from ...formats.outcome import EXECUTE, READ, WRITE
from .reach import KERNEL_HALF, USER_EXECUTE, USER_READ, USER_WRITE, Layer
from .scene import Scene
from .spans import without
from .telling import rule, tell

KERNEL_HALF_OPEN = rule(
    "S3003", Severity.ERROR, "user mode reaches memory in the kernel's half",
    "Every process has these addresses, so what lies there is read, or changed, by anybody. It is an error where user "
    "mode may write, otherwise a warning: x86 Linux's vsyscall page is meant to be there.",
)  # fmt: skip
USER_PAGES_OPEN = rule(
    "S3004", Severity.NOTE, "supervisor mode may use pages of user mode",
    "A kernel that is led astray runs code, or trusts data, that a program put there. SMEP and SMAP (Intel SDM Vol. "
    '3A, 5.6 "Access Rights"), PXN and PAN (Arm ARM DDI 0487, D8.4) and sstatus.SUM (RISC-V) forbid it. Arm\'s '
    "PAN is in PSTATE, which no table shows.",
)  # fmt: skip
RULES = (KERNEL_HALF_OPEN, USER_PAGES_OPEN)


def check_user_reach(scene: Scene) -> Iterator[Finding]:
    """Both rules, of everybody who has a stage 1."""
    for reach in scene.of_layer(Layer.OWN, Layer.GUEST):
        who = reach.party.name
        high = reach.start >= np.uint64(KERNEL_HALF)
        written = high & reach.allowing(USER_WRITE)
        if written.any():
            text = f"{who}: user mode may write {{amount}} in the kernel's half"
            yield tell(
                KERNEL_HALF_OPEN, scene.source, reach.spans(written), [(reach, written, "user mode")], text,
                fix="take user access out of the entries",
            )  # fmt: skip
        seen = high & reach.allowing(USER_READ | USER_EXECUTE)
        rest = without(reach.spans(seen), reach.spans(written))
        if len(rest):
            text = f"{who}: user mode may read or execute {{amount}} in the kernel's half"
            ways = [(reach, seen, "user mode")]
            yield tell(KERNEL_HALF_OPEN, scene.source, rest, ways, text, severity=Severity.WARNING)
        for permissions, what in ((EXECUTE, "execute"), (READ | WRITE, "read or write")):
            rows = reach.of_kind([kind.user and bool(kind.permissions & permissions) for kind in reach.kinds])
            if rows.any():
                text = f"{who}: as far as its tables go, supervisor mode may {what} {{amount}} of user mode's pages"
                yield tell(USER_PAGES_OPEN, scene.source, reach.spans(rows), [(reach, rows, "")], text)
